"""The JSON that `plan --json` and `simulate --json` print: one contract for programs.

Keys are only ever added. Times are seconds, memory is bytes, one entry a pipeline rank.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .configuration import Configuration, levers
from .lengths.mix import Expected
from .plan import Plan, Prediction, Proof, RunnerUp

Json = dict[str, Any]


def plan_json(plan: Plan) -> Json:
    """A chosen plan with its prediction, proof and runners-up."""
    return {
        **configuration_json(plan.configuration),
        "placement": None if plan.placement is None else plan.placement.model_dump(mode="json"),
        "routing": None if plan.routing is None else plan.routing.model_dump(mode="json") | {"gain": plan.routing.gain},
        "token_homes": None if plan.token_homes is None else plan.token_homes.model_dump(mode="json"),
        "mix": None if plan.mix is None else plan.mix.model_dump(mode="json"),
        "rank_map": list(plan.rank_map),
        "predicted": predicted_json(plan.predicted),
        "expected": None if plan.expected is None else expected_json(plan.expected),
        "proof": proof_json(plan.proof),
        "runners_up": [runner_up_json(runner) for runner in plan.runners_up],
        "goal": plan.goal.model_dump(mode="json"),
        "at_risk": plan.at_risk.model_dump(mode="json") if plan.at_risk else None,
        "training": plan.training.model_dump(mode="json") if plan.training else None,
        "contingency": [each.model_dump(mode="json") for each in plan.contingency],
        "why": list(plan.why),
        "model": plan.model.name,
        "cluster": plan.cluster.name,
        "devices": plan.configuration.mesh.world,
        "job": plan.job.model_dump(mode="json"),
        "framework": plan.framework,
        "fingerprint": plan.fingerprint,
    }


def configuration_json(configuration: Configuration) -> Json:
    """How the model is spread over the devices."""
    mesh = configuration.mesh
    return {
        "mesh": asdict(mesh),
        "schedule": {
            "name": configuration.schedule,
            "vpp": configuration.vpp,
            "microbatches": configuration.microbatches,
            "in_flight": list(configuration.in_flight),
            "actions": list(configuration.actions),
        },
        "microbatch": configuration.microbatch,
        "stage_layers": list(configuration.stage_layers),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in levers(configuration).items()},
    }


def predicted_json(prediction: Prediction) -> Json:
    """What is expected of it; `memory` splits the peak of each pipeline rank by cause."""
    return prediction.model_dump(mode="json")


def expected_json(expected: Expected) -> Json:
    """Steps whose sequences have different lengths, and what mixed groups gain."""
    gains = {"gain_over_fixed": expected.gain_over_fixed, "gain_over_packed": expected.gain_over_packed}
    return {**expected.model_dump(mode="json"), **gains}


def proof_json(proof: Proof) -> Json:
    """How good the choice is; `seconds` is the time that this search took."""
    return {**proof.model_dump(mode="json"), "seconds": proof.seconds}


def runner_up_json(runner: RunnerUp) -> Json:
    """A feasible plan that was not chosen."""
    return runner.model_dump(mode="json")
