"""The training loop: images seen in, run folder out; it can be killed at any moment and goes on where it was.

Everything random in a step is a function of (seed, images seen, place in the batch), and the data order is a function
of (seed, position), so a state holds weights, averages and Adam's moments only. On one device a continued run equals
the unbroken one bit for bit. A batch is worked on in parts, each with a stream of its own, whichever process has it:
several processes equal one with as large parts (--microbatch) but for the order in which gradients are added up.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nomadiff.data.source_mix import Batch, SourceMix
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import Interrupted, NomadiffError, UsageError
from nomadiff.memory import explained
from nomadiff.networks.flops import flops_of
from nomadiff.networks.layers import has_fused_kernels
from nomadiff.processes import Processes, partner_lost
from nomadiff.progress import progress_bar, say
from nomadiff.seeding import mixed_seed, own_randomness
from nomadiff.stop_signals import stop_signals
from nomadiff.training.agreement import part_to_keep, require_agreement
from nomadiff.training.augment import Augment
from nomadiff.training.compiling import explained_compiler, set_block_call
from nomadiff.training.config import RunConfig
from nomadiff.training.cuda_graph import ReplayedLoss, is_launch_bound
from nomadiff.training.ema import ModuleEMA
from nomadiff.training.feeding import Feed, clean_gradients, kernels_by_trial
from nomadiff.training.floors import NoiseFloors
from nomadiff.training.footprint import part_by_trial, part_that_fits, parts_of
from nomadiff.training.loss import edm_loss, training_levels, with_uncertainty
from nomadiff.training.matching import require_match
from nomadiff.training.meter import Meter
from nomadiff.training.observer import Observer
from nomadiff.training.phema import PowerEMA
from nomadiff.training.precision import AUTOCAST, resolved_precision
from nomadiff.training.probe import check_source_reaches_output, source_effect
from nomadiff.training.run_files import RunFiles
from nomadiff.training.run_folder import RunFolder, images_seen_by

__all__ = ["train"]

_ASKED_EVERY = 8  # steps


def train(
    config: RunConfig,
    mix: SourceMix,
    folder: RunFolder,
    processes: Processes,
    *,
    start_from: dict[str, Tensor] | None = None,
    description: str | None = None,
    observer: Observer | None = None,
) -> EDMDenoiser:
    """Train a denoiser on a mix of sources until its budget of images is seen.

    Args:
        config: the recipe.
        mix: real and synthetic images, or latents of the space that the recipe names. Its batches' source labels reach
            the network if ``config.sources`` > 0.
        folder: where everything is written; continued if it holds this recipe already.
        processes: the processes that train together.
        start_from: weights to start from (fine-tuning) instead of fresh ones; the moving average starts from them too.
        description: words for the progress bar.
        observer: looks on, and may stop the training at a snapshot.

    Returns:
        The averaged (EMA) denoiser, in evaluation mode on ``processes.device``.

    Raises:
        UsageError: the batch does not divide among the processes, the data do not match the model's recipe,
            the folder holds another run, or one that cannot be continued; the processes do not share the folder, or
            were not started alike.
        NomadiffError: the loss is not finite any more, memory runs out, the network ignores its source label, or
            another process has ended.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.

    Warns:
        NomadiffWarning: the budget lies inside the warm-up.
    """
    if config.training.batch % processes.count:
        raise UsageError(f"batch {config.training.batch} does not divide among {processes.count} processes")
    require_match(config, mix)
    with own_randomness(processes.device):
        if processes.is_main:
            with folder.lock():
                folder.begin(config, mix.provenance, observer.stopped_at() if observer else None)
                if start_from is None:
                    config.training.warn_of_budget()
                processes.barrier()
                trained = _Training(config, mix, folder, processes, start_from, observer)
                trained.run(description or f"train {config.method}")
        else:
            processes.barrier()  # until the main process has claimed the folder and repaired it
            trained = _Training(config, mix, folder, processes, start_from, observer)
            trained.run("")
    return trained.ema.module


class _Training:
    """State of one run in one process."""

    def __init__(
        self,
        config: RunConfig,
        mix: SourceMix,
        folder: RunFolder,
        processes: Processes,
        start_from: dict[str, Tensor] | None,
        observer: Observer | None = None,
    ) -> None:
        self.observer = observer
        self.config, self.options = config, config.training
        self.mix = mix.with_class_names(config.vocabulary) if config.classes else mix
        self.folder, self.processes = folder, processes
        device = processes.device
        torch.manual_seed(mixed_seed(self.options.seed, 0))
        self.denoiser = config.build_denoiser()
        if start_from is not None:
            self.denoiser.load_state_dict(start_from)
        half = self.options.precision != "fp32"
        forward = flops_of(config.network, config.sources + config.classes) if half or device.type == "cuda" else 0.0
        self.precision = resolved_precision(self.options.precision, device, forward)
        # channels last: convolutions are up to a fifth faster, but a CPU's group norm in half precision is slower, and
        # torch's own on a GPU by more than they gain
        slowed = self.precision != "fp32" if device.type == "cpu" else not has_fused_kernels(device)
        self.layout = torch.contiguous_format if slowed else torch.channels_last
        self.denoiser.to(device, memory_format=self.layout).train()  # type: ignore[call-overload]
        self.denoiser.autocast = AUTOCAST[self.precision]
        self.log_variance = getattr(self.denoiser.network, "log_variance", None)
        self.ema: ModuleEMA[EDMDenoiser] | PowerEMA[EDMDenoiser]
        if self.options.ema_stds:
            self.ema = PowerEMA(self.denoiser, self.options.ema_stds)
        else:
            self.ema = ModuleEMA(self.denoiser, self.options.ema_half_life, self.options.ema_rampup)
        self.parameters = list(self.denoiser.parameters())  # listed once: small networks take a step in milliseconds
        betas = (0.9, self.options.adam_beta2)
        self.optimizer = torch.optim.Adam(self.parameters, betas=betas, fused=device.type != "mps")
        self.feed = Feed(self.mix, device, sources=config.sources, classes=config.classes)
        self.floors = NoiseFloors(self.mix, self.options, device) if self.mix.floors else None
        self.augment = Augment(self.options.augment) if self.options.augment > 0 else None
        self.generator = torch.Generator(device)
        self.motions = torch.Generator()
        # dropout draws from the global generator; torch.manual_seed seeds those of all devices and takes its time
        self.seed_dropout = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
        self.images_seen = 0
        self.share = self.options.batch // processes.count
        self.part = self.share if isinstance(self.options.microbatch, str) else self.options.microbatch or self.share
        self.part = min(self.part, self.share)
        if config.sources:
            check_source_reaches_output(self.denoiser, (mix.channels, mix.resolution, mix.resolution), device)
        self.files = RunFiles(config, folder, processes, self.denoiser, self.ema, self.optimizer)
        self.continued = folder.state_path.exists() and self._load_state()
        if not self.continued and folder.model_path.exists():
            self.images_seen = self.files.load_model()
        set_block_call(self.denoiser, compiled=self.options.compile, checkpointed=self.options.checkpoint_gradients)
        self.parallel: nn.Module = self.denoiser
        self.operations = forward  # of a pass on one image
        self.replayed: ReplayedLoss | None = None
        if processes.count > 1:
            require_agreement(config, mix, folder, self.images_seen, processes)
        if self.options.microbatch == "auto" and not self.continued:
            self.part = self._part_that_fits()
        if processes.count > 1:
            for parameter in self._unused():
                parameter.requires_grad_(False)
            self.parallel = processes.wrap(self.denoiser)

    def _unused(self) -> list[nn.Parameter]:
        """Parameters that the loss does not depend on: an augmentation input without augmentation, say.

        DistributedDataParallel would wait for their gradients. They have none, so they keep their values as they do in
        one process.
        """
        self.denoiser.eval()  # in training mode a pass of EDM2's network changes its weights
        loss = self._loss(self.feed.batch(0, 1, self.options.seed), slice(0, 1), self._fresh_meter())
        loss.backward()  # not torch.autograd.grad: of frozen layers it would leave out what group norm needs
        self.denoiser.train()
        unused = [each for each in self.parameters if each.requires_grad and each.grad is None]
        self._forget_gradients()
        return unused

    def _part_that_fits(self) -> int:
        """How much of a process' share of the batch fits into memory: tried on a GPU, planned elsewhere."""
        device, sizes = self.processes.device, parts_of(self.share)
        if device.type == "cuda":
            part = part_by_trial(self.denoiser, sizes, self._attempt)
        else:
            part = part_that_fits(self.config, self.precision, device, sizes, self.processes.count)
        return int(self.processes.gather(torch.tensor([part], device=device)).min())

    def _attempt(self, size: int) -> None:
        try:
            batch = self.feed.batch(0, size, self.options.seed)
            self._loss(batch, slice(0, size), self._fresh_meter()).backward()
        finally:
            self._forget_gradients()

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def run(self, description: str) -> None:
        """See images until the budget is reached or the observer stops it, logging and saving on the way."""
        end = self.options.steps * self.options.batch
        try:
            over = self.observer.begin(self.images_seen) if self.observer else ""
            if self.images_seen >= end or over:
                self._complete()
            else:
                with kernels_by_trial(self.processes.device, 3 * self.operations * self.options.budget):
                    self._go_on(end, description)
        finally:
            if self.observer:
                self.observer.close()

    def _go_on(self, end: int, description: str) -> None:
        options = self.options
        if self.processes.is_main:
            self.folder.trim_log(self.images_seen)
            if self.images_seen:
                say(f"{description}: continuing from {self.images_seen:,} of {end:,} images")
        alone = self.processes.count == 1 and self.part == self.share and not options.checkpoint_gradients
        if alone and is_launch_bound(self.denoiser, self.processes.device, self.operations, self.share):
            self.replayed = ReplayedLoss(self.denoiser, self.config.sigma_data)
        meter = self._fresh_meter()
        shown = progress_bar(description, total=end, done=self.images_seen, show=self.processes.is_main)
        with shown as advance, stop_signals() as stopped:
            last = False
            while not last:
                before = self.images_seen
                try:
                    self._step(meter)
                except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU allocator's is a plain one
                    if self.processes.count > 1 and (lost := partner_lost(error)):
                        raise lost from error
                    raise explained_compiler(explained(error, self.part)) from error
                self.images_seen += options.batch
                meter.images += options.batch
                advance(options.batch, lambda told=meter: f"loss {told.mean():.4g}")
                last = self.images_seen >= end
                snapshot = _crossed(options.snapshot_every, before, self.images_seen) or last
                logged = _crossed(options.log_every, before, self.images_seen) or snapshot
                if logged:
                    self._log(meter, snapshot)
                    if snapshot:
                        last = self._save(last)
                    meter = self._fresh_meter()
                if self._any_stopped(stopped, logged):  # after the last step, too: nothing else is to begin
                    if not last:
                        self.files.save_state(self.images_seen, self.part)
                        if self.observer and self.processes.is_main:
                            self.observer.stopped(self.images_seen)
                    raise Interrupted(
                        f"stopped at {self.images_seen:,} of {end:,} images, state saved in {self.folder.path}: "
                        "run the same command again to go on",
                        stopped[0] if stopped else signal.SIGTERM,
                    )

    def _step(self, meter: Meter) -> None:
        options = self.options
        share, size, first = self.share, self.part, self.processes.rank * self.share
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate_after(self.images_seen)
        batch = self.feed.batch(self.images_seen + first, share, options.seed)
        for start in range(0, share, size):
            # a stream each: drawn from one seed, an image's noise level would follow from how it is moved
            place = (0, self.images_seen, first + start)
            self.generator.manual_seed(mixed_seed(options.seed, 1, *place))
            self.motions.manual_seed(mixed_seed(options.seed, 2, *place))
            self.seed_dropout(mixed_seed(options.seed, 3, *place))
            with self._synchronised_if(start + size >= share):
                self._loss(batch, slice(start, start + size), meter).div(share).backward()
        clean_gradients([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        self.optimizer.step()
        self._forget_gradients()
        self.ema.update(self.images_seen, options.batch)

    def _loss(self, batch: Batch, part: slice, meter: Meter) -> Tensor:
        """Summed loss of a part of a batch on the device; adds it to the meter."""
        device, generator, options = self.processes.device, self.generator, self.options
        images = self.mix.clean(batch.images[part], generator)
        source = batch.source[part]
        condition: dict[str, Any] = {}
        if self.config.sources:
            condition["source"] = source
        if self.config.classes:
            assert batch.labels is not None
            labels = batch.labels[part]
            if options.class_dropout > 0:
                hidden = torch.rand(len(labels), generator=generator, device=device) < options.class_dropout
                labels = torch.where(hidden, -1, labels)
            condition["class_label"] = labels
        if self.augment is not None:
            # motions are drawn on the CPU: the same on every device, and nothing waits for a GPU
            images, condition["augment"] = self.augment(images, self.motions)
        floors = None if batch.floors is None else batch.floors[part]
        sigma = training_levels(len(images), options.p_mean, options.p_std, generator, floors)
        noise = torch.randn(images.shape, generator=generator, device=device)
        if self.replayed is not None:
            loss = self.replayed(images, sigma, noise, **condition)
        else:
            loss = edm_loss(self.parallel, images, sigma, noise, sigma_data=self.config.sigma_data, **condition)
        meter.add(loss.detach().flatten(1).mean(1), source, sigma)
        if self.log_variance is not None:
            loss = with_uncertainty(loss, self.log_variance(sigma.log() / 4))
        if floors is not None:
            assert self.floors is not None
            weight = self.floors.weights(sigma)
            loss = loss * weight.reshape(-1, 1, 1, 1)
        return loss.sum()

    @contextmanager
    def _synchronised_if(self, last: bool) -> Iterator[None]:
        """Exchange gradients between processes only in the last part of a batch."""
        if last or not isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            yield
        else:
            with self.parallel.no_sync():
                yield

    def _fresh_meter(self) -> Meter:
        return Meter.fresh(len(self.mix.names), self.processes.device, self.observer.edges if self.observer else ())

    def _log(self, meter: Meter, probe: bool) -> None:
        meter = meter.totals(self.processes)
        nonfinite = int(meter.nonfinite)
        # fp16 overflows now and then and Adam goes on; a loss that is mostly not a number will not come back
        if nonfinite > float(meter.count.sum()):
            raise NomadiffError(
                f"the loss is not finite since about {self.images_seen - meter.images:,} images; snapshots before that "
                f"in {self.folder.path} are good: use a lower --learning-rate or --precision fp32 in a new --out"
            )
        seconds = time.perf_counter() - meter.started
        record: dict[str, Any] = {
            "images_seen": self.images_seen,
            **meter.losses(self.mix.names),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": round(meter.images / seconds, 2),
            "precision": self.precision,
        }
        if nonfinite:
            record["nonfinite_losses"] = nonfinite
        # EDM2's output and label gains start at zero and leave it one after the other, in the second and third step
        if probe and self.config.sources and self.images_seen > 2 * self.options.batch:
            images = self.mix.batch(0, min(16, self.options.batch), self.options.seed).images
            self.generator.manual_seed(self.options.seed)  # every step seeds it anew
            clean = self.mix.clean(images.to(self.processes.device), self.generator)
            record["source_effect"] = source_effect(self.ema.module, clean)
        if self.processes.is_main:
            self.folder.log(record)
            if self.observer:
                self.observer.log(record)

    def _save(self, last: bool) -> bool:
        """Write snapshots, state and model, in this order: wherever a kill comes, the rest is made again from these.

        Snapshots without their state are trained and written again; a state that is at the end still makes the rest.

        Returns:
            Whether the training ends here: it is the last snapshot, or the observer stops it.
        """
        state_first = last and not self.folder.state_path.exists()
        if state_first:  # a last snapshot without any state is a finished run whose state was removed
            self.files.save_state(self.images_seen, self.part)
        self.files.save_snapshots(self.images_seen)
        if self.observer and (why := self.observer.snapshot(self.ema.module, self.images_seen, last)):
            last = True
            if self.processes.is_main:
                say(why)
        if not state_first:
            self.files.save_state(self.images_seen, self.part)
        if last:
            self.files.save_model(self.images_seen)
        self.processes.barrier()
        return last

    def _complete(self) -> None:
        """Write what a trained run lacks: a kill came between state and model, or a file was deleted or damaged."""
        if self.continued:
            if self.processes.is_main:
                self.files.save_snapshots(self.images_seen, absent=True)
            if self.observer and not self.observer.seen(self.images_seen):
                self.observer.snapshot(self.ema.module, self.images_seen, True)
            if self.processes.is_main and images_seen_by(self.folder.model_path) != self.images_seen:
                self.files.save_model(self.images_seen)
        self.processes.barrier()

    def _load_state(self) -> bool:
        """Go on from the state; False where it is damaged and nothing is left to train."""
        facts = self.files.load_state()
        if facts is None:
            return False
        self.images_seen = facts["images_seen"]
        if self.images_seen < self.options.steps * self.options.batch:
            self.part = part_to_keep(facts, self.folder, self.processes.count, self.options.batch) or self.part
        return True

    def _any_stopped(self, stopped: list[int], logged: bool) -> bool:
        """Whether any process got a signal: all must stop at the same step.

        Several processes ask one another after a log and every so many steps: it waits for the device.
        """
        if self.processes.count == 1:
            return bool(stopped)
        if not logged and self.images_seen // self.options.batch % _ASKED_EVERY:
            return False
        return bool(self.processes.total(torch.tensor(float(len(stopped)), device=self.processes.device)))


def _crossed(every: int, before: int, after: int) -> bool:
    return after // every > before // every
