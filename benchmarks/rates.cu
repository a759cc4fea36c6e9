// The special-function unit's rate: independent exponentials in a row, nothing else of weight.

struct Rates {
    float* out;
    int rounds;
};

extern "C" __global__ void __launch_bounds__(256) exponentials(const __grid_constant__ Rates p) {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = -1e-3f * (float)(threadIdx.x + i);
    for (int round = 0; round < p.rounds; ++round)
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = exp2_fast(x[i]);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += x[i];
    if (sum == 12345.0f) p.out[0] = sum;  // never: keeps the loop
}
