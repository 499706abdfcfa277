"""Small configs of every family with experts."""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "pad_token_id": None,  # transformers gives the embedding of this token no gradient, and data have no such token
}

MIXTRAL: dict[str, Any] = {
    **_COMMON,
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "intermediate_size": 48,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "rope_theta": 10000.0,
}
QWEN2_MOE: dict[str, Any] = {
    **_COMMON,
    "model_type": "qwen2_moe",
    "architectures": ["Qwen2MoeForCausalLM"],
    "intermediate_size": 64,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "mlp_only_layers": [1],
}
QWEN3_MOE: dict[str, Any] = {
    **_COMMON,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "head_dim": 8,
    "intermediate_size": 64,
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
}
OLMOE: dict[str, Any] = {
    **_COMMON,
    "model_type": "olmoe",
    "architectures": ["OlmoeForCausalLM"],
    "intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "pad_token_id": None,  # else transformers gives the embedding of token 1 no gradient
    "eos_token_id": None,
}
_LATENT: dict[str, Any] = {
    **_COMMON,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "routed_scaling_factor": 1.5,
}
DEEPSEEK_V2: dict[str, Any] = {
    **_LATENT,
    "model_type": "deepseek_v2",
    "architectures": ["DeepseekV2ForCausalLM"],
    "topk_method": "group_limited_greedy",
}
DEEPSEEK_V3: dict[str, Any] = {
    **_LATENT,
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "norm_topk_prob": True,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": MIXTRAL,
    "qwen2_moe": QWEN2_MOE,
    "qwen2_moe, normalised": {**QWEN2_MOE, "norm_topk_prob": True},
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe, not normalised": {**QWEN3_MOE, "norm_topk_prob": False},
    "olmoe": OLMOE,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v2, greedy": {**DEEPSEEK_V2, "topk_method": "greedy"},
    "deepseek_v3": DEEPSEEK_V3,
}
