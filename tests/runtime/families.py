"""A small model of every family, of odd sizes, with every switch that its config has."""

from __future__ import annotations

from typing import Any

from plans import LLAMA

ROPE3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
DEEPSEEK_YARN = {**YARN, "beta_fast": 8, "beta_slow": 1, "mscale": 0.7, "mscale_all_dim": 0.9}

_SMALL: dict[str, Any] = {
    **LLAMA,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "vocab_size": 251,
    "initializer_range": 0.1,
    "pad_token_id": None,  # transformers gives the embedding of this token no gradient, and data have no such token
}
LLAMA_ODD = {**_SMALL, "head_dim": 10, "rope_scaling": ROPE3, "attention_bias": True, "mlp_bias": True}
MISTRAL = {**_SMALL, "model_type": "mistral", "sliding_window": 7}
QWEN2 = {
    **_SMALL,
    "model_type": "qwen2",
    "use_sliding_window": True,
    "sliding_window": 5,
    "max_window_layers": 1,
    "tie_word_embeddings": True,
    "rope_scaling": YARN,
}
QWEN3 = {**_SMALL, "model_type": "qwen3", "head_dim": 14, "attention_bias": True}
GEMMA2 = {
    **_SMALL,
    "model_type": "gemma2",
    "head_dim": 14,
    "sliding_window": 6,
    "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 1.5,
    "tie_word_embeddings": True,
}
GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 88,
    "n_positions": 64,
    "vocab_size": 251,
    "activation_function": "gelu_new",
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "scale_attn_by_inverse_layer_idx": True,
    "initializer_range": 0.1,
}
PHI3 = {
    **_SMALL,
    "model_type": "phi3",
    "sliding_window": 9,
    "partial_rotary_factor": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DENSE: dict[str, dict[str, Any]] = {
    "llama": LLAMA_ODD,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gpt2": GPT2,
    "phi3": PHI3,
}
"""Families without experts."""

DEEPSEEK_V2: dict[str, Any] = {
    **_SMALL,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "num_key_value_heads": 4,
    "first_k_dense_replace": 3,
    "q_lora_rank": None,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
DEEPSEEK_V3 = {
    **DEEPSEEK_V2,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "q_lora_rank": 28,
    "attention_bias": True,
    "rope_scaling": DEEPSEEK_YARN,
    "norm_topk_prob": True,
}
LATENT = {"deepseek_v2, dense": DEEPSEEK_V2, "deepseek_v3, dense": DEEPSEEK_V3}
"""Latent attention in front of dense feed-forward blocks."""
