"""The whole model: every network of a checkpoint and the methods that become engines. It knows no losses and no data.

Methods take tensors in the order of `runtime.spec.engine_specs` and return outputs in that order.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from runtime.schedule import Schedule
from runtime.spec import TOKENS, ModelSpec, engine_specs
from training.autoencoder import Autoencoder, build_network
from training.conditioner import Conditioner
from training.config import ModelConfig
from training.encoders import AudioEncoder, build_image_encoder, build_text_encoder, build_wav2vec2
from training.estimators import AgeEstimator, EmotionEstimator, IdentityEncoder

ENGINE_METHODS = {
    "text_encoder": "encode_text",
    "audio_encoder": "encode_audio",
    "image_encoder": "encode_image",
    "identity_encoder": "identify",
    "fusion": "fuse",
    "unet": "denoise",
    "encoder": "encode",
    "decoder": "decode",
    "age_estimator": "estimate_age",
    "emotion_estimator": "estimate_emotion",
}


class ClipFaceFusion(nn.Module):
    """ClipFaceFusion with freshly initialised weights; `training.checkpoint.load` fills them."""

    def __init__(self, config: ModelConfig, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.schedule = Schedule.from_dict(dict(config.schedule))
        self.text_encoder = build_text_encoder(config.text_encoder, config.features, tokenizer)
        self.image_encoder = build_image_encoder(config.image_encoder, config.features)
        self.audio_encoder = AudioEncoder(build_wav2vec2(config.audio_encoder), config.features)
        self.identity_encoder = IdentityEncoder(config.face_channels, config.features)
        self.age_estimator = AgeEstimator(config.face_channels, config.features)
        self.emotion_estimator = EmotionEstimator(config.face_channels, config.features)
        self.autoencoder = None if config.autoencoder is None else Autoencoder(build_network(config.autoencoder))
        self.unet = build_unet(config)
        self.conditioner = Conditioner(
            config.features,
            self.audio_encoder.wav2vec2.config.hidden_size,
            cond_width(config),
            config.token_width,
            config.heads,
            config.dropout,
            config.fusion,
        )

    def spec(self) -> ModelSpec:
        """The sizes that the runtime needs to know."""
        cond: dict[str, tuple[int, ...]] = {"cond": (cond_width(self.config),)}
        if self.config.token_width is not None:
            cond["cond_tokens"] = (len(TOKENS), self.config.token_width)
        size = self.config.unet["sample_size"]
        return ModelSpec(
            image_size=self.config.image_size,
            sample_shape=(self.config.unet["in_channels"], size, size),
            is_latent=self.autoencoder is not None,
            features=self.config.features,
            audio_features=self.audio_encoder.wav2vec2.config.hidden_size,
            clip_image_size=self.image_encoder.config.image_size,
            identity_size=self.config.identity_size,
            cond=cond,
        )

    @torch.no_grad()
    def uncond(self) -> dict[str, Tensor]:
        """The unconditional `cond` mapping, without batch: every token null."""
        inputs = engine_specs(self.spec())["fusion"].inputs
        device = next(self.conditioner.parameters()).device
        zeros = [torch.zeros(1, *(int(d) for d in tensor.shape[1:]), device=device) for tensor in inputs]
        return dict(zip(self.spec().cond, (entry[0] for entry in self.fuse(*zeros)), strict=True))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (B, L) → CLIP text features (B, D), eq. 1."""
        return self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).text_embeds

    def encode_audio(self, input_values: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised 16 kHz samples (B, T) → pooled features and speech-emotion features, eqs 2, 6."""
        return self.audio_encoder(input_values)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """CLIP-normalised pixels → CLIP image features (B, D), eq. 8."""
        return self.image_encoder(pixel_values=pixel_values).image_embeds

    def identify(self, face: Tensor) -> Tensor:
        """ArcFace-normalised face → identity features (B, D), unit length."""
        return self.identity_encoder(face)

    def fuse(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Inputs of the `fusion` spec → the entries of `cond`, eqs 3-7 and 11-16."""
        return self.conditioner(*features)

    def denoise(self, sample: Tensor, timestep: Tensor, cond: Tensor, cond_tokens: Tensor | None = None) -> Tensor:
        """Sample (B, C, H, W) at `timestep` (B,) under `cond` → `noise_pred` of the same shape."""
        # Either stock UNet adds an "identity" class embedding, here `cond`, to its time embedding.
        if cond_tokens is None:
            return self.unet(sample, timestep, class_labels=cond).sample
        return self.unet(sample, timestep, encoder_hidden_states=cond_tokens, class_labels=cond).sample

    def encode(self, image: Tensor) -> Tensor:
        """Picture in [-1, 1] → normalised latents."""
        assert self.autoencoder is not None, "a pixel model has no encoder"
        return self.autoencoder.encode(image)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents → picture in [-1, 1]."""
        assert self.autoencoder is not None, "a pixel model has no decoder"
        return self.autoencoder.decode(latents)

    def estimate_age(self, image: Tensor) -> Tensor:
        """Picture in [-1, 1] → age in years (B, 1)."""
        return self.age_estimator(image)

    def estimate_emotion(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Picture in [-1, 1] → label probabilities (B, 8), valence/arousal (B, 2)."""
        return self.emotion_estimator(image)


def build_unet(config: ModelConfig) -> UNet2DModel | UNet2DConditionModel:
    """The stock diffusers UNet that the preset names."""
    classes = {"UNet2DModel": UNet2DModel, "UNet2DConditionModel": UNet2DConditionModel}
    settings = {name: value for name, value in config.unet.items() if not name.startswith("_")}
    return classes[config.unet["_class_name"]](**settings)


def cond_width(config: ModelConfig) -> int:
    """Width of the UNet's time embedding, to which an "identity" class embedding is added as it is."""
    return config.unet.get("time_embedding_dim") or 4 * config.unet["block_out_channels"][0]
