"""Small detectors of the transformers library, built from configs, for tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tiny import candidate_fusions_of, head_config_of
from vodet.data.frames.resize import OriginalSize
from vodet.detector import VideoDetector
from vodet.features.no_backbone import NoBackbone
from vodet.features.pyramid import Identity
from vodet.fusion.none import NoFusion
from vodet.heads.detr import DetrHead
from vodet.structures import Window

_RESNET = {
    "model_type": "rt_detr_resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
_HGNET = {
    "model_type": "hgnet_v2",
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 8, 8],
    "stem_channels": [3, 4, 4],
    "stage_in_channels": [4, 8, 8, 8],
    "stage_mid_channels": [4, 4, 4, 4],
    "stage_out_channels": [8, 8, 8, 8],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, False, False],
    "stage_kernel_size": [3, 3, 3, 3],
    "out_features": ["stage2", "stage3", "stage4"],
}
_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 64,
    "patch_size": 16,
}
_RT_DETR = {
    "backbone_config": _RESNET,
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 8, 8],
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 20,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_n_points": 2,
    "num_denoising": 10,
}
_D_FINE = {
    **_RT_DETR,
    "backbone_config": _HGNET,
    "decoder_n_points": [2, 2, 2],
    "max_num_bins": 8,
}
_LW_DETR = {
    "d_model": 16,
    "num_queries": 20,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "decoder_n_points": 2,
    "group_detr": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
    "d_fine": _D_FINE,
    "deimv2": {**_D_FINE, "hidden_size": 16},
    "rf_detr": {
        **_LW_DETR,
        "backbone_config": {
            **_VIT,
            "model_type": "rf_detr_dinov2",
            "num_windows": 2,
            "out_features": ["stage1", "stage2"],
        },
    },
    "lw_detr": {
        **_LW_DETR,
        "projector_scale_factors": [1.0],
        "projector_in_channels": [16, 16],
        "backbone_config": {
            **_VIT,
            "model_type": "lw_detr_vit",
            "num_windows": 4,
            "window_block_indices": [0],
            "out_indices": [0, 1],
        },
    },
    "deformable_detr": {
        "backbone_config": _RESNET,
        "d_model": 32,
        "num_queries": 20,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_feature_levels": 3,
        "encoder_n_points": 2,
        "decoder_n_points": 2,
    },
}


def config_of(name: str, **values: Any) -> dict[str, Any]:
    return {"model_type": name, **CONFIGS[name], **values}


def tiny_detr(
    candidate_fusions: str | dict[str, Callable[..., Any]],
    window: Window,
    model: str = "rt_detr_v2",
    class_names: tuple[str, ...] = ("car", "dog", "kite"),
    seed: int = 0,
    frozen: tuple[str, ...] = (),
    lively: bool = True,
    precise: bool = False,
    size_divisor: int = 1,
    **head: Any,
) -> VideoDetector:
    """A detector of some ten thousand weights, in eval mode, with lively outputs.

    Its candidate fusions are given by name, of conf/model/head/fusion, or as factories. A precise
    one makes its candidates in float64: attention with geometry amplifies rounding errors of boxes
    that hardly move.
    """
    torch.manual_seed(seed)
    if isinstance(candidate_fusions, str):
        config = head_config_of(candidate_fusions)
        head = {"refine": config.refine} | head
        candidate_fusions = candidate_fusions_of(candidate_fusions)
    settings = {"config": config_of(model), "num_candidates": 12, "width": 16}
    detector = VideoDetector(
        NoBackbone(size_divisor),
        pyramid=Identity,
        fusion=NoFusion,
        head=partial(DetrHead, fusion=candidate_fusions, **(settings | head)),
        window=window,
        class_names=class_names,
        resize=OriginalSize(),
        frozen=frozen,
    )
    if lively:
        enliven(detector)
        if detector.head.st_classifier is not None:  # scores far from 0
            torch.nn.init.zeros_(detector.head.st_classifier.bias)
    if precise:
        detector.head.model.double()
    return detector.eval()


def enliven(detector: torch.nn.Module) -> None:
    """Draw weights such that different frames have different detections."""
    for weight in detector.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)


PROCESSORS = {
    "rt_detr": "RTDetrImageProcessor",
    "rt_detr_v2": "RTDetrImageProcessor",
    "d_fine": "RTDetrImageProcessor",
    "deimv2": "RTDetrImageProcessor",
    "rf_detr": "RfDetrImageProcessor",
    "lw_detr": "DeformableDetrImageProcessor",
    "deformable_detr": "DeformableDetrImageProcessor",
}


def saved(folder: Path, name: str = "rt_detr_v2", labels: int = 3, **processor: Any) -> Path:
    """A model as the library saves it, with its processor, in a folder."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **CONFIGS[name], num_labels=labels)
    model = transformers.AutoModelForObjectDetection.from_config(config)
    enliven(model)
    model.save_pretrained(folder)
    getattr(transformers, PROCESSORS[name])(**processor).save_pretrained(folder)
    return folder
