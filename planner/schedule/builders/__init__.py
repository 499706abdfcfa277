"""One file a schedule: a pure function that lists its actions, and SCHEDULE, which says what it asks for."""
