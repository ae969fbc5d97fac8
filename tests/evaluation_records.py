"""Results in the layouts of SAEBench's evaluations, with numbers of our own.

The names are those of ``evals/*/eval_output.py`` of SAEBench 0.6.0; of MDL's ``main.py``; and of an
example of the 2024 template.
"""

from __future__ import annotations

from typing import Any

MILLIS = {
    "2024-09-01": 1725148800000,
    "2024-11-05": 1730764800000,
    "2025-01-16": 1736985600000,
    "2025-03-01": 1740787200000,
    "2026-06-01": 1780272000000,
}


def current(kind: str, metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A record in the layout of all releases, as an installed SAEBench 0.6.0 writes it."""
    record = {
        "eval_type_id": kind,
        "eval_config": {"model_name": "m", "random_seed": 42, "llm_dtype": "float32"},
        "eval_id": "0",
        "datetime_epoch_millis": MILLIS["2026-06-01"],
        "eval_result_metrics": metrics,
        "eval_result_details": [],
        "sae_bench_commit_hash": "Unknown",
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": "r",
        "sae_lens_version": "6.30.1",
        "sae_cfg_dict": {"d_in": 4},
        "eval_result_unstructured": None,
    }
    return record | more


def old(kind: str, metrics: dict[str, Any], date: str, **more: Any) -> dict[str, Any]:
    """The same from a checkout of that day."""
    made = {
        "datetime_epoch_millis": MILLIS[date],
        "sae_bench_commit_hash": "0" * 40,
        "sae_lens_version": "5.3.0",
    }
    return current(kind, metrics, **(made | more))


CORE = {
    "model_behavior_preservation": {"kl_div_score": 0.9, "kl_div_with_sae": 1.0},
    "model_performance_preservation": {"ce_loss_score": 0.9, "ce_loss_without_sae": 3.0},
    "reconstruction_quality": {"explained_variance": 0.8, "mse": 0.01, "cossim": 0.9},
    "sparsity": {"l0": 20.0, "l1": 30.0},
}


def core_metrics(**changes: float) -> dict[str, Any]:
    """A whole result of core; changes are of the reconstruction's quality."""
    return CORE | {"reconstruction_quality": CORE["reconstruction_quality"] | changes}


MDL = {
    "eval_instance_id": "0",
    "sae_lens_release": "r",
    "sae_lens_id": "i",
    "eval_type_id": "mdl",
    "sae_lens_version": "4.1.0",
    "sae_bench_version": "0" * 40,
    "date_time": "2024-11-05T01:54:14.197238",
    "eval_config": {"num_bins_values": [8, 16], "k_values": [None], "model_name": "m"},
    "eval_results": [
        {
            "num_bins": 8,
            "bins": [],
            "k": None,
            "description_length": 169.5,
            "within_threshold": False,
            "mse_loss": 1.5,
        },
        {
            "num_bins": 16,
            "bins": [],
            "k": None,
            "description_length": None,
            "within_threshold": True,
            "mse_loss": 0.75,
        },
    ],
    "eval_artifacts": {"artifacts": "None"},
}
TEMPLATE = {
    "custom_eval_results": {
        "release/layer_4/trainer_0": {"llm_test_accuracy": 0.95, "sae_top_5_test_accuracy": 0.87},
        "release/layer_4/trainer_1": {"llm_test_accuracy": 0.95, "sae_top_5_test_accuracy": 0.87},
    },
    "custom_eval_config": {"random_seed": 42, "k_values": [5]},
}
RAVEL = current(
    "ravel",
    {"ravel": {"disentanglement_score": 0.5, "cause_score": 0.4, "isolation_score": 0.6}},
    eval_result_unstructured={"city": {"Country": {"cause_score": 0.4}}},
)
UNLEARNING = current("unlearning", {"unlearning": {"unlearning_score": 0.05}})
META_STRUCTURE = current(
    "meta_structure_decoder_variance",
    {
        "meta_structure": {
            "decoder_fraction_variance_explained": 0.3,
            "train_time_seconds": 12.0,
            "final_reconstruction_mse": 0.001,
        }
    },
    eval_result_details=None,
)
SAE_PROBES = current(
    "sparse_probing_sae_probes",
    {
        "llm": {"llm_test_accuracy": None, "llm_test_auc": 0.9, "llm_test_f1": None},
        "sae": {"sae_top_1_test_auc": 0.8, "sae_top_16_test_f1": 0.7},
    },
    eval_result_details=[
        {"dataset_name": "a", "sae_top_1_test_auc": 0.8, "sae_metrics_by_k": {"1": {"f1": 0.7}}}
    ],
    sae_metrics_by_k={"1": {"test_auc": 0.8}},
)
AUTOINTERP = {  # nested under the SAE's name, as its files are
    "release_trainer_10": old(
        "autointerp",
        {"autointerp": {"autointerp_score": 0.84, "autointerp_std_dev": 0.1}},
        "2024-11-05",
    )
}
TPP = old(
    "tpp",
    {
        "tpp_metrics": {
            "tpp_threshold_2_total_metric": None,
            "tpp_threshold_10_total_metric": 0.15,
            "tpp_threshold_10_intended_diff_only": 0.16,
            "tpp_threshold_10_unintended_diff_only": 0.01,
        }
    },
    "2024-11-05",
    eval_result_details=[{"dataset_name": "a", "tpp_threshold_10_total_metric": 0.15}],
)


def letters(values: list[float]) -> list[dict[str, Any]]:
    """The details of an absorption evaluation."""
    return [
        {"first_letter": letter, "mean_absorption_fraction": value, "num_split_features": 1}
        for letter, value in zip("abcdefghijklmnopqrstuvwxyz", values)
    ]
