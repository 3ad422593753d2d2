"""The public names, each with the module that it comes from: the one place that lists them."""

from .augmented_stream import AugmentedStream as AugmentedStream
from .data.annotations.source import Source as Source
from .data.annotations.st_coco import read_st_coco as read_st_coco
from .data.clips.datamodule import ClipDataModule as ClipDataModule
from .data.frames.resize import Letterbox as Letterbox
from .data.frames.resize import Resize as Resize
from .detector import VideoDetector as VideoDetector
from .encodings import Candidates as Candidates
from .encodings import CandidateSpec as CandidateSpec
from .encodings import EncodedFrames as EncodedFrames
from .encodings import FeatureMaps as FeatureMaps
from .encodings import FeatureSpec as FeatureSpec
from .encodings import Memory as Memory
from .encodings import State as State
from .encodings import WindowBatch as WindowBatch
from .errors import VodetError as VodetError
from .evaluation.evaluator import Evaluator as Evaluator
from .evaluation.measures import Measures as Measures
from .features.backbone import TimmBackbone as TimmBackbone
from .features.pyramid import FPN as FPN
from .fusion.long_term_attention import LongTermAttention as LongTermAttention
from .fusion.stf import STF as STF
from .fusion.tubelet_aggregation import TubeletAggregation as TubeletAggregation
from .heads.centernet import CenterNetHead as CenterNetHead
from .heads.two_stage import TwoStageHead as TwoStageHead
from .inference.drawing import draw as draw
from .inference.predicted_frame import PredictedFrame as PredictedFrame
from .stages import CandidateFusion as CandidateFusion
from .stages import Head as Head
from .stages import MapFusion as MapFusion
from .streaming import StreamingDetector as StreamingDetector
from .structures import ClipBatch as ClipBatch
from .structures import ClipLayout as ClipLayout
from .structures import Detections as Detections
from .structures import Target as Target
from .structures import Window as Window
from .tasks.checkpoint import load as load
from .tasks.detection import VideoDetectionTask as VideoDetectionTask
from .tasks.from_pretrained import from_pretrained as from_pretrained
from .tasks.init_from import init_from as init_from

__version__: str
