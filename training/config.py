"""What can be set: how a model is built (`ModelConfig`), what it is trained for (`LossConfig`) and how (`StageConfig`, `TrainConfig`).

The values that we use are the table in `training.presets`. Library settings are kept in the libraries' own words (diffusers,
transformers), so that a checkpoint folder's `config.json` and a preset read the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from typing import Any

from training.data.readers import READERS
from training.dropout import MODALITIES

DATA_SETS = ("world", *READERS)  # what a mixture may name
LARGEST_SEED = 2**64 - 1  # of torch's generators


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. `features` is the shared width of the paper (512), `token_width` the UNet's cross-attention width.

    `token_width` None means that the UNet takes `cond` alone. `autoencoder` None means a pixel-space model.
    """

    image_size: int
    unet: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    image_encoder: Mapping[str, Any]
    audio_encoder: Mapping[str, Any]
    autoencoder: Mapping[str, Any] | None = None
    token_width: int | None = None
    features: int = 512
    heads: int = 8
    fusion: str = "attention"  # or "mean": the tokens' plain average, the paper's ablation without the fusion module
    dropout: float = 0.1
    face_channels: tuple[int, ...] = (32, 64, 128)
    identity_size: int = 128
    guidance_scale: float = 3.0
    schedule: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "face_channels", tuple(self.face_channels))
        if self.fusion not in ("attention", "mean"):
            raise ValueError(f"fusion {self.fusion!r}, allowed attention, mean")
        if self.features % self.heads:
            raise ValueError(f"features {self.features} must be a multiple of heads {self.heads}")
        is_conditional = self.unet["_class_name"] == "UNet2DConditionModel"
        if is_conditional != (self.token_width is not None):
            raise ValueError(
                f"token_width {self.token_width} does not fit {self.unet['_class_name']}: UNet2DConditionModel needs one, UNet2DModel takes none"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read the form of `to_dict`; unknown entries raise ValueError."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"model config: unknown entries {sorted(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON form for `clipfacefusion.json`."""
        return asdict(self)


@dataclass(frozen=True)
class LossConfig:
    """What the last stage minimises: `simple` L_simple + eq. 30 + `cross_modal` L_CM. A weight of 0 switches its term off.

    λ1 … λ5 of eq. 30 are `clip`, `audio_visual`, `age`, `emotion`, `identity`; the constants inside a term are the paper's.
    The image losses read x̂0 of the samples at `timestep <= max_timestep`, of at most `part` of a batch, ramped in over
    `ramp_steps`; with `chain_steps` > 0 they read the end of a differentiable DDIM chain of that many steps instead.
    """

    simple: float = 1.0
    clip: float = 0.7
    audio_visual: float = 0.5
    age: float = 0.4
    emotion: float = 0.4
    identity: float = 1.0
    cross_modal: float = 0.01
    cross_modal_form: str = "present_pairs"  # or "literal": eq. 14 as printed, which pulls all tokens into one
    scale: float = 0.1  # of eq. 30 as a whole: L_simple ends near 0.1, eq. 30 sums to order 1
    max_timestep: int = 330
    part: float = 0.25
    ramp_steps: int = 100
    chain_steps: int = 0

    def __post_init__(self) -> None:
        weights = ("simple", "clip", "audio_visual", "age", "emotion", "identity", "cross_modal", "scale")
        for name in weights:
            if not getattr(self, name) >= 0:
                raise ValueError(f"loss weight {name} is {getattr(self, name)}, must be at least 0")
        if self.cross_modal_form not in ("present_pairs", "literal"):
            raise ValueError(f"cross_modal_form {self.cross_modal_form!r}, allowed present_pairs, literal")
        if not 0 < self.part <= 1:
            raise ValueError(f"part {self.part} must be in (0, 1]")
        if not 0 <= self.max_timestep < 1000:
            raise ValueError(f"max_timestep {self.max_timestep} must be in 0..999")
        if self.ramp_steps < 0 or self.chain_steps < 0:
            raise ValueError(f"ramp_steps {self.ramp_steps} and chain_steps {self.chain_steps} must be at least 0")


@dataclass(frozen=True)
class StageConfig:
    """One stage's optimisation: AdamW with linear warm-up, then constant or linear decay to zero.

    `batch_size` is the whole batch of a step, over all processes; it is worked through as `micro_batches` equal parts.
    """

    steps: int
    batch_size: int
    learning_rate: float
    micro_batches: int = 1
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay: bool = True
    ema_decay: float = 0.0  # 0 = no moving average
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.checkpoint_every < 1:
            raise ValueError(
                f"steps {self.steps}, batch_size {self.batch_size} and checkpoint_every {self.checkpoint_every} must be at least 1"
            )
        if self.micro_batches < 1 or self.batch_size % self.micro_batches:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of micro_batches {self.micro_batches}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate {self.learning_rate} must be above 0")
        if not (self.weight_decay >= 0 and self.warmup_steps >= 0):
            raise ValueError(
                f"weight_decay {self.weight_decay} and warmup_steps {self.warmup_steps} must be at least 0"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay} must be in [0, 1)")

    def parts(self, processes: int) -> int:
        """`micro_batches`, or the next larger number of parts that `processes` processes can share and the batch divides into."""
        for parts in range(self.micro_batches, self.batch_size + 1):
            if not parts % processes and not self.batch_size % parts:
                return parts
        raise ValueError(
            f"a batch of {self.batch_size}, in at least {self.micro_batches} micro-batches, cannot be shared equally by "
            f"{processes} processes; start a number of processes that divides {self.batch_size}, or change batch_size"
        )


@dataclass(frozen=True)
class TrainConfig:
    """A whole training: the model, the data's mixture, each stage's settings and the losses of the last.

    `mixture` is the share of each data source in a batch; one with a share of 0 is never drawn and serves the stages that learn
    from labels alone (`estimators`, `voice`). "world" is the synthetic one, of which `people` persons with `shots`
    pictures each and `voices` clips are drawn. `never` names modalities (`training.dropout.MODALITIES`) that no sample gets to
    see. `precision` is fp32, bf16 (autocast) or fp16 (autocast with loss scaling). `gradient_checkpointing` computes the UNet's
    activations a second time in the backward pass instead of keeping them; `preview` draws a picture with every saved state.
    """

    model: ModelConfig
    stages: Mapping[str, StageConfig]
    mixture: Mapping[str, float] = field(default_factory=lambda: {"world": 1.0})
    losses: LossConfig = field(default_factory=LossConfig)
    never: tuple[str, ...] = ()
    people: int = 0
    shots: int = 2
    voices: int = 0
    vocabulary: int = 1024
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    preview: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision {self.precision!r}, allowed fp32, bf16, fp16")
        if unknown := sorted(set(self.never) - set(MODALITIES)):
            raise ValueError(f"never {', '.join(unknown)}; modalities are {', '.join(MODALITIES)}")
        if self.shots < 2:
            raise ValueError(
                f"shots {self.shots} must be at least 2: reference and target are different pictures of one person"
            )
        for name, least in (("people", 0), ("voices", 0), ("vocabulary", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed {self.seed} must be in 0..{LARGEST_SEED}")
        if unknown := sorted(set(self.mixture) - set(DATA_SETS)):
            raise ValueError(f"mixture: {', '.join(unknown)} is not known; data sets are {', '.join(DATA_SETS)}")
        for source, share in self.mixture.items():
            if not (isfinite(share) and share >= 0):
                raise ValueError(f"mixture.{source} {share} must be a finite share of at least 0")
        if not any(self.mixture.values()):
            raise ValueError(f"mixture {dict(self.mixture)} must give one source a share of more than 0")

    def sources(self, given: Collection[str]) -> TrainConfig:
        """The same with the mixture cut to the sources `given`; a single one needs no share.

        Raises ValueError for one without, and for a world of nobody.
        """
        if "world" in given and not self.people:
            raise ValueError("people 0 must be at least 1 where the synthetic world is drawn")
        missing = [name for name in given if name not in self.mixture] if len(given) > 1 else []
        if missing:
            raise ValueError(
                f"no share for {', '.join(missing)} in the mixture {dict(self.mixture)}; add e.g. --set mixture.{missing[0]}=0.2"
            )
        return replace(self, mixture={name: self.mixture.get(name, 1.0) for name in given})

    def with_settings(self, assignments: Iterable[str]) -> TrainConfig:
        """The same with settings changed by texts such as `diffusion.steps=500`, applied in order.

        `STAGE.NAME` sets a stage's, `*.NAME` every stage's, `losses.NAME` a loss's, `mixture.SOURCE` a share, `NAME` the rest;
        `never=audio,text` lists modalities, `never=` none.
        Raises ValueError for a name that does not exist, or a value that is not of the type of the present one.
        """
        config = self
        for text in assignments:
            path, equals, value = text.partition("=")
            group, _, name = path.rpartition(".")
            if not equals or not name:
                raise ValueError(f"setting {text!r} must look like diffusion.steps=500")
            if group == "mixture":
                config = replace(config, mixture={**config.mixture, name: _parse(text, value, 1.0)})
            elif group == "losses":
                config = replace(config, losses=_changed(config.losses, name, text, value))
            elif group == "*" or group in config.stages:
                changed = config.stages if group == "*" else (group,)
                stages = {stage: _changed(config.stages[stage], name, text, value) for stage in changed}
                config = replace(config, stages={**config.stages, **stages})
            elif path == "never":
                config = replace(config, never=tuple(filter(None, value.split(","))))
            elif not group:
                config = _changed(config, name, text, value)
            else:
                groups = ", ".join(("losses", "mixture", "*", *config.stages))
                raise ValueError(f"setting {text!r}: there is no group {group!r}; groups are {groups}")
        return config


def _changed(settings: Any, name: str, text: str, value: str) -> Any:
    """The dataclass `settings` with one simple field changed."""
    simple = [f.name for f in fields(settings) if isinstance(getattr(settings, f.name), (bool, int, float, str))]
    if name not in simple:
        raise ValueError(f"setting {text!r}: there is no {name!r}; it can be {', '.join(simple)}")
    return replace(settings, **{name: _parse(text, value, getattr(settings, name))})


def _parse(text: str, value: str, present: Any) -> Any:
    kind = type(present)
    try:
        return {"true": True, "false": False}[value] if kind is bool else kind(value)
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"setting {text!r}: {value!r} is not {wanted}") from None
