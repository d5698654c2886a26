"""Facts on which the processes of a server and its clients agree, beside the request table and the engines' specs."""

from __future__ import annotations

from runtime.spec import MAX_BATCH

MODEL = "clipfacefusion"  # the public Triton model
OUTPUTS = ("image", "report")  # what it answers: UINT8 (H, W, 3), and BYTES [1] holding JSON

# The same in parts. Each message has two outputs more: INT32 [1], steps done, and BOOL [1], true on the last one. A message
# without an image is a sign of life, at least every `SIGN_OF_LIFE_S` seconds; the report of what is not final says `num_steps`.
STREAM_MODEL = "clipfacefusion_stream"
STEP, FINAL = "step", "final"
STREAM_OUTPUTS = (*OUTPUTS, STEP, FINAL)
SIGN_OF_LIFE_S = 1.0

# What goes with a request through the steps of the ensemble, from `preprocess` to `sampler`, each as JSON: how to sample, and
# what is known so far for the report.
SETTINGS, NOTES = "settings", "notes"
SAMPLER_ENGINES = ("unet", "decoder", "encoder")  # `sampler` owns these, `condition` all others

LIVE_JOBS = MAX_BATCH // 2  # requests in the sampler's batch: a guided one takes two rows of a UNet call
MAX_WAITING = 64
MAX_LIVE_REQUESTS = LIVE_JOBS + MAX_WAITING  # more are refused
MAX_UNSEEN = 256  # requests that nobody has looked at yet: more Triton itself refuses
QUEUE_TOO_LONG = "Exceeds maximum queue size"  # Triton's words for it
RETRY_AFTER_S = 2  # what a refused caller is told
LIVE_REQUESTS = "clipfacefusion_live_requests"  # gauge: requests taken and not yet answered
STOPPING = "stopping"  # a file of this name in the model repository: take no more requests
# Parameters in the configurations of models.
FEATURE_CACHE_BYTES = (
    "feature_cache_bytes"  # parameter of `condition`: how much of encoders' results it remembers, 0 = nothing
)
ENGINES = "engines"  # the model's engines are Triton models; its value is what runs them, for reports
INNER_KEY = "inner_key"  # drawn per repository, told to nobody: what the parameter `INNER` of a request is worth
FACE_PACK = "face_pack"  # folder of the detector that finds faces in photos
STALL_LIMIT = "stall_limit_s"  # the sampler ends itself, to be started again, if one call of the UNet takes longer

# What a request carries beside its tensors, as parameters of Triton's: the first two come from headers of the same names, which
# win over parameters that a caller wrote, and reach every step of an ensemble.
TRACEPARENT, TENANT = "traceparent", "x-tenant"
JOB = "job"  # the id of a sample, by which the sampler's inputs `NEXT` and `CANCEL` name it
NEXT, CANCEL = "next", "cancel"  # give its next part; stop it
INNER = (
    "inner"  # a call of one of our models, which counts and logs the request itself; worth the key of the repository
)
DEADLINE_TEXT = "deadline exceeded: "  # Triton has no such status: CANCELLED with a text that starts so stands for it
CANARY_ID = "canary"  # request id of the supervisor's own requests, which are counted apart
STEP_SECONDS = "clipfacefusion_step_seconds"  # histogram: its _count rises with every UNet call

# How a request ended, by the gRPC status that its caller got, for counters, logs and whoever compares them. Any other status is a
# failure, and the server's.
OUTCOME_BY_CODE = {
    "OK": "ok",
    "INVALID_ARGUMENT": "refused",
    "UNAVAILABLE": "refused",
    "CANCELLED": "cancelled",
    "DEADLINE_EXCEEDED": "cancelled",
    "INTERNAL": "failed",
}
