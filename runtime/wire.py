"""Names on which the processes of a server and its clients agree, beside the request table and the engines' specs."""

from __future__ import annotations

MODEL = "clipfacefusion"  # the public Triton model
OUTPUTS = ("image", "report")  # what it answers: UINT8 (H, W, 3), and BYTES [1] holding JSON
# What goes with a request through the steps of the ensemble, from `preprocess` to `sampler`: how to sample, ...
SAMPLING_FIELDS = ("seed", "num_inference_steps", "guidance_scale")
# ... and what is known so far for the report, as JSON.
NOTES = "notes"
LIVE_REQUESTS = "clipfacefusion_live_requests"  # gauge: requests taken and not yet answered
STOPPING = "stopping"  # a file of this name in the model repository: take no more requests
