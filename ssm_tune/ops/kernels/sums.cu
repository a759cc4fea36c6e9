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
    int parts, unused;  // threads that share the partial sums of a result: a power of two up to a block's warps
};

#define THREADS 128

extern "C" __global__ void __launch_bounds__(THREADS) sum_partials(const __grid_constant__ Sums p) {
    __shared__ float sums[THREADS];
    const Job job = p.jobs[blockIdx.y];
    const int results = THREADS / p.parts, part = threadIdx.x / results;  // neighbours read neighbours
    const int each = (job.count + p.parts - 1) / p.parts, from = part * each, to = min(from + each, job.count);
    for (i64 start = (i64)blockIdx.x * results; start < job.size; start += (i64)gridDim.x * results) {
        const i64 i = start + threadIdx.x % results;
        float sum = 0.0f;
        if (i < job.size) {
#pragma unroll 8
            for (int k = from; k < to; ++k) sum += job.partial[k * job.size + i];
        }
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (part == 0 && i < job.size) {
            for (int other = 1; other < p.parts; ++other) sum += sums[other * results + threadIdx.x];
            store_any(job.out, job.run ? i / job.run * job.step + i % job.run : i, job.dtype, sum);
        }
        __syncthreads();
    }
}
