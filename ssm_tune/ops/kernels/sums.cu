// Second half of the deterministic sums: out[i] = sum over k of partial[k, i], several such jobs in one launch.

struct Job {
    const float* partial;
    void* out;
    i64 size;
    int count, dtype;
    int run, step;  // where not 0: out is made of runs of so many neighbours, which start so far apart
};

struct Sums {
    Job jobs[8];
};

// A warp takes a part of the partial sums of 32 neighbours; the warps' sums are added in order.
constexpr int PARTS = 8;

extern "C" __global__ void __launch_bounds__(32 * PARTS) sum_partials(const __grid_constant__ Sums p) {
    __shared__ float sums[PARTS][32];
    const Job job = p.jobs[blockIdx.y];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int each = (job.count + PARTS - 1) / PARTS, from = part * each, to = min(from + each, job.count);
    for (i64 start = (i64)blockIdx.x * 32; start < job.size; start += (i64)gridDim.x * 32) {
        const i64 i = start + lane;
        float sum = 0.0f;
        if (i < job.size) {
#pragma unroll 8
            for (int k = from; k < to; ++k) sum += job.partial[k * job.size + i];
        }
        sums[part][lane] = sum;
        __syncthreads();
        if (part == 0 && i < job.size) {
#pragma unroll
            for (int other = 1; other < PARTS; ++other) sum += sums[other][lane];
            store_any(job.out, job.run ? i / job.run * job.step + i % job.run : i, job.dtype, sum);
        }
        __syncthreads();
    }
}
