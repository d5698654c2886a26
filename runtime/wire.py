"""Facts on which the processes of a server and its clients agree, beside the request table and the engines' specs."""

from __future__ import annotations

from runtime.spec import MAX_BATCH

MODEL = "clipfacefusion"  # the public Triton model
OUTPUTS = ("image", "report")  # what it answers: UINT8 (H, W, 3), and BYTES [1] holding JSON

# What goes with a request through the steps of the ensemble, from `preprocess` to `sampler`: how to sample, and what is known
# so far for the report, as JSON.
SAMPLING_FIELDS = ("seed", "num_inference_steps", "guidance_scale")
NOTES = "notes"
SAMPLER_ENGINES = ("unet", "decoder", "encoder")  # `sampler` owns these, `condition` all others

LIVE_JOBS = MAX_BATCH // 2  # requests in the sampler's batch: a guided one takes two rows of a UNet call
MAX_LIVE_REQUESTS = LIVE_JOBS + 64  # those, and the ones that wait; more are refused
LIVE_REQUESTS = "clipfacefusion_live_requests"  # gauge: requests taken and not yet answered
STOPPING = "stopping"  # a file of this name in the model repository: take no more requests
ENGINES = "engines"  # parameter of a model whose engines are Triton models; its value is what runs them, for reports
