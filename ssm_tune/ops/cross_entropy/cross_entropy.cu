// Cross-entropy of rows of logits, and its gradient: loss = lse - x[target], dx = (exp(x - lse) - [target]) * scale, where
// lse = log sum exp x. A row whose target is negative has neither.
//
// Forward: a block takes a row. Backward: a thread takes four logits. Macros: DTYPE.

#define THREADS 512
#define NOTHING __uint_as_float(0xff800000u)  // minus infinity

struct CrossEntropy {
    const elem* logits;  // (rows, width), contiguous
    const i64* targets;
    const float* scale;  // backward: one number
    float *lse, *losses;
    elem* dlogits;
    i64 width;
};

// The sum of e^x so far is sum * e^most.
struct Sum {
    float most, sum;
};

__device__ __forceinline__ Sum joined(Sum a, Sum b) {
    if (a.most == NOTHING) return b;  // and fmaxf does not lose a NaN beside nothing
    if (b.most == NOTHING) return a;
    const float most = fmaxf(a.most, b.most);
    return {most, a.sum * exp_close(a.most - most) + b.sum * exp_close(b.most - most)};
}

#ifdef ENTRY_cross_entropy_forward
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_forward(const __grid_constant__ CrossEntropy p) {
    __shared__ Sum shared[THREADS / 32];
    const i64 row = blockIdx.x, target = p.targets[row];
    const elem* x = p.logits + row * p.width;
    Sum own = {NOTHING, 0.0f};
    for (i64 at = threadIdx.x * 4; at < p.width; at += THREADS * 4) {
        const Four four = load_four(x + at);
        const float most = fmaxf(fmaxf(four.v[0], four.v[1]), fmaxf(four.v[2], four.v[3]));
        Sum these = {most, 0.0f};
        if (most > NOTHING)
#pragma unroll
            for (int i = 0; i < 4; ++i) these.sum += exp_close(four.v[i] - most);
        own = joined(own, these);
    }
#pragma unroll
    for (int mask = 16; mask >= 1; mask >>= 1) own = joined(own, {exchange(own.most, mask), exchange(own.sum, mask)});
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < THREADS / 32; ++w) own = joined(own, shared[w]);
    const float lse = own.most + logf(own.sum);
    p.lse[row] = lse;
    p.losses[row] = target < 0 ? 0.0f : lse - to_float(x[target]);
}
#endif

#ifdef ENTRY_cross_entropy_backward
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_backward(const __grid_constant__ CrossEntropy p) {
    const i64 row = blockIdx.x, target = p.targets[row], at = ((i64)blockIdx.y * THREADS + threadIdx.x) * 4;
    if (at >= p.width) return;
    Four out = {};
    if (target >= 0) {
        const Four x = load_four(p.logits + row * p.width + at);
        const float lse = p.lse[row], scale = *p.scale;
#pragma unroll
        for (int i = 0; i < 4; ++i) out.v[i] = (exp_close(x.v[i] - lse) - (at + i == target ? 1.0f : 0.0f)) * scale;
    }
    store_four(p.dlogits + row * p.width + at, out);
}
#endif
