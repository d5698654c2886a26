"""One step of a route as CUDA C: see `runtime/route.py` for what it computes, and `runtime/engines/loop_graph.py` for who asks.

The order of the operations is that of `runtime/ddim.py`, and none may be fused with its neighbour, so that both round alike.
"""

from __future__ import annotations

NAME = "take_step"
THREADS = 256  # of a block
OPTIONS = ("--fmad=false",)

# x        (rows, n) the sample, once for each row of the model; changed in place
# outputs  (rows, n) what the model gave
# f        the step's row of FACTORS: sample, output, x0_sample, x0_output, x0, guidance, clip
SOURCE = """
extern "C" __global__ void take_step(float *x, const float *outputs, const float *f, int n, int rows) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float before = x[i], noise = outputs[i];
    if (rows > 1 && f[5] != 1.0f) {
        float uncond = outputs[n + i];
        noise = (noise - uncond) * f[5] + uncond;
    }
    float clean = f[2] * before + f[3] * noise;
    clean = fminf(fmaxf(clean, -f[6]), f[6]);
    float after = f[0] * before + f[1] * noise + f[4] * clean;
    for (int row = 0; row < rows; row++) x[row * n + i] = after;
}
"""
