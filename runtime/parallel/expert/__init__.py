"""Expert parallelism, folded over the ranks that attention sees as (dp, cp, tp): MoE Parallel Folding,
arXiv:2504.14960."""
