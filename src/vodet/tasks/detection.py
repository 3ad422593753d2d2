"""The LightningModule: training loss, optimizer and evaluation of a video detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.clips.dataset import ClipDataset
from vodet.data.clips.mixture import MixedClips
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError, ConfigError, TrainingError
from vodet.evaluation.evaluator import Evaluator, check_sharding
from vodet.metrics.detection_table import Measure
from vodet.model_folder import model_card
from vodet.streaming import StreamFactory, StreamingDetector
from vodet.structures import ClipBatch, VideoChunk
from vodet.tasks.candidate_cache import CandidateCache, open_cache
from vodet.tasks.checkpoint import (
    CARD_KEY,
    checked_checkpoint,
    fitting_weights,
    load_weights,
)
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.optimizer import learning_rates
from vodet.tasks.precision import check_precision, warn_of_slow_precision
from vodet.tasks.schedule import Schedule

OptimizerFactory = Callable[[Iterator[tuple[str, nn.Parameter]]], Optimizer]


class VideoDetectionTask(L.LightningModule):
    """Trains a video detector on clips and evaluates it by streaming whole videos.

    Logs ``train/loss``, ``train/loss_<term>`` and ``lr/<group>`` in training, and the metrics of
    ``measures`` in evaluation, such as ``val/map`` (COCO AP).

    Args:
        detector: The detector.
        optimizer: Builds the optimizer from the named parameters of the detector: a class of
            ``torch.optim`` or, with options for parts of the detector, a `GroupedOptimizer`.
        schedule: Schedule of the learning rate; constant by default.
        config: The resolved config of the run, stored in checkpoints: `vodet.load` rebuilds the
            detector from its entry ``model``.
        compile_encoder: Compile the backbone with ``torch.compile``.
        measures: Metrics that an evaluation computes from all detections; COCO AP by default.
        stream: Builds the stream that runs the detector on the videos of an evaluation.
        best_by: Name of the metric that the progress bar shows, such as ``map``.
        seed: Seed of the random numbers of each epoch, so that resumed training continues like
            uninterrupted training.
    """

    def __init__(
        self,
        detector: VideoDetector,
        *,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        config: dict[str, Any] | None = None,
        compile_encoder: bool = False,
        measures: Measure | None = None,
        stream: StreamFactory = StreamingDetector,
        best_by: str = "map",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.detector = detector
        self._optimizer = optimizer
        self._schedule = schedule
        self._config = config
        self._measures = measures
        self._stream = stream
        self.best_by = best_by
        self._seed = seed
        self._cache: CandidateCache | None = None  # set at the start of a training
        self.evaluator: Evaluator | None = None  # set by the first evaluation
        self.result: dict[str, float] | None = None  # metrics of the last evaluation
        if compile_encoder:
            detector.backbone.compile()

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedules of its learning rate.

        Raises:
            TrainingError: If the task has no optimizer.
            ConfigError: If the optimizer cannot be built.
        """
        if self._optimizer is None:
            msg = "Training needs an optimizer: VideoDetectionTask(detector, optimizer=...)."
            raise TrainingError(msg)
        try:
            optimizer = self._optimizer(self.detector.named_parameters())
        except (TypeError, ValueError) as error:
            msg = f"The optimizer cannot be built: {error}"
            raise ConfigError(msg) from error
        return [optimizer], self._schedule(optimizer) if self._schedule else []

    def setup(self, stage: str) -> None:
        """Check the precision of the trainer, and warn if it is slow on this machine.

        Raises:
            ConfigError: If the precision does not keep box arithmetic in float32.
        """
        del stage
        check_precision(self.trainer.precision)
        warn_of_slow_precision(self.trainer)

    def on_fit_start(self) -> None:
        """Open the candidate cache of the data, if it should have one.

        Raises:
            ConfigError: If the detector has no frozen base; see `open_cache` for further errors.
        """
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ClipDataModule) and data.candidate_cache:
            precision = self.trainer.precision
            with self.trainer.precision_plugin.train_step_context():
                self._cache = open_cache(self.detector, data, str(precision))

    def on_train_start(self) -> None:
        """Check that only vodet's sampler divides the clips among the processes.

        Raises:
            ConfigError: If the trainer uses a `DistributedSampler`.
        """
        loader: Any = self.trainer.train_dataloader
        if isinstance(getattr(loader, "dataset", None), MixedClips | ClipDataset):
            check_sharding(loader)

    def on_train_epoch_start(self) -> None:
        """Seed torch for this epoch and process, from ``seed``, the epoch and the rank."""
        torch.manual_seed(self._seed + 100_003 * self.current_epoch + self.global_rank)

    def training_step(self, batch: ClipBatch) -> Tensor:
        """Return the sum of the loss terms of a batch of clips, and log the terms.

        Raises:
            TrainingError: If the loss is not finite; the message names the clips.
        """
        encode = self._cache.encode if self._cache else None
        terms = self.detector.losses(batch, encode)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise TrainingError(_not_finite(terms, batch, self.global_step))
        logged = {f"train/loss_{name}": term.detach() for name, term in terms.items()}
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.frames))
        self.log_dict(logged, batch_size=len(batch.frames))
        self.log_dict(learning_rates(self.trainer.optimizers[0]), batch_size=1)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start an evaluation.

        Raises:
            ConfigError: If `Evaluator` does not accept the data loader.
        """
        loader = self._validation_loader()
        if self.evaluator is None or self.evaluator.loader is not loader:
            self.evaluator = Evaluator(self.detector, loader, self._measures, stream=self._stream)
        self.evaluator.start()

    def validation_step(self, chunk: VideoChunk) -> None:
        """Run the detector on the next chunk of a video."""
        if self.evaluator is not None:
            self.evaluator.update(chunk)

    def on_validation_epoch_end(self) -> None:
        """Gather the detections of all processes, compute the metrics once, and log them."""
        if self.evaluator is None:
            return
        limit = self.trainer.limit_val_batches  # the float 1.0 means all batches
        is_limited = self.trainer.sanity_checking or isinstance(limit, int) or limit < 1
        self.result = self.evaluator.compute(only_processed=is_limited)
        self.evaluator.reset()
        for name, value in self.result.items():
            # The value is equal on all processes: the maximum keeps it exactly, a mean would round.
            is_shown = name == self.best_by
            self.log(f"val/{name}", value, prog_bar=is_shown, reduce_fx="max", sync_dist=True)

    def _validation_loader(self) -> Any:
        trainer = self.trainer
        is_fitting = trainer.state.fn == TrainerFn.FITTING
        # Not trainer.val_dataloaders: in validate() after fit(), these are still from fit().
        loop = trainer.fit_loop.epoch_loop.val_loop if is_fitting else trainer.validate_loop
        return loop._combined_loader.flattened[0]  # type: ignore[union-attr]  # set by now

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add a description of the detector to the checkpoint, for `vodet.load`."""
        checkpoint[CARD_KEY] = model_card(self.detector, self._config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint fits the detector and, in training, that it can be resumed.

        Raises:
            CheckpointError: If the classes or weights differ from the detector's or are unusable,
                or if training is resumed from a checkpoint without the state of the optimizer.
        """
        path: Any = self.trainer.ckpt_path
        fitting_weights(self.detector, checked_checkpoint(checkpoint, path), path)
        if self.trainer.state.fn == TrainerFn.FITTING and "optimizer_states" not in checkpoint:
            msg = (
                f"The checkpoint {path} has weights but no training state, so training cannot be "
                f"resumed from it. Start a new training with its weights: init_from={path}."
            )
            raise CheckpointError(msg)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning would read the file itself
        cls, checkpoint_path: FilePath, *, detector: VideoDetector, **options: Any
    ) -> VideoDetectionTask:
        """Create a task whose detector has the weights of a checkpoint; see `load_weights`.

        Args:
            checkpoint_path: A checkpoint written by `vodet-train`.
            detector: A detector of the same architecture and classes.
            options: Further arguments of the task.

        Raises:
            CheckpointError: If the file cannot be used; the message says why.
        """
        load_weights(detector, checkpoint_path)
        return cls(detector, **options)


def _not_finite(terms: dict[str, Tensor], batch: ClipBatch, step: int) -> str:
    values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
    clips = "\n".join(f"  {info}" for info in batch.reference_infos)
    return (
        f"The loss is not finite at step {step}: {values}. Lower the learning rate, lengthen the "
        "warm-up, or look at the boxes of the clips in this batch with vodet-data show. The "
        f"reference frames are:\n{clips}"
    )
