// The backward's recurrence alone, for the segments after the first: what flows out of a segment at its start if nothing
// flows in at its end, (segments - 1, rows, channels, WIDE), and the sum of its steps, (segments - 1, rows, channels).
//
// Macros: DTYPE, LANES, STATES, CHANNELS, PER, TILE, SOFTPLUS, HAS_Z.

#define THREADS (CHANNELS / PER * LANES)
#define WIDE (LANES * STATES)

struct Carry {
    const elem *dout, *dt, *z, *C;
    const float* A;
    const void* dt_bias;
    float *carries, *durations;
    i64 dout_row, dt_row, z_row, C_row;    // strides of the batch, in elements
    int dout_step, dt_step, z_step, C_step;  // strides of time
    int length, channels, states, segment, bias_type, log_A;
};

constexpr int VECTORS = CHANNELS / 4;
constexpr int ROWS = THREADS / VECTORS;
constexpr int PASSES = (TILE + ROWS - 1) / ROWS;
constexpr int ROW = CHANNELS + 8;
constexpr int RAW = TILE * CHANNELS;
constexpr int C_ROWS = THREADS / WIDE;
constexpr int C_PASSES = (TILE + C_ROWS - 1) / C_ROWS;

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_carry(const __grid_constant__ Carry p) {
    extern __shared__ float4 shared[];
    float* steps = (float*)shared;         // (TILE, ROW): dt after softplus
    float* dys = steps + TILE * ROW;       // (TILE, ROW)
    float* Cs = dys + TILE * ROW;          // (TILE, WIDE)
    elem* raw = (elem*)(Cs + TILE * WIDE);  // dt, dout, z: the next tile

    const int row = blockIdx.y, first = blockIdx.x * CHANNELS, segment = blockIdx.z + 1;
    const int lane = threadIdx.x % LANES, local = threadIdx.x / LANES * PER;
    const int tiles = (p.length + TILE - 1) / TILE;
    const int from_tile = segment * p.segment, to_tile = min(from_tile + p.segment, tiles);

    float A[PER][STATES], carry[PER][STATES] = {}, duration[PER] = {};
#pragma unroll
    for (int k = 0; k < PER; ++k)
#pragma unroll
        for (int j = 0; j < STATES; ++j) {
            const int n = lane * STATES + j, channel = first + local + k;
            A[k][j] = channel < p.channels && n < p.states ? scaled_A(p.A[(i64)channel * p.states + n], p.log_A) : 0.0f;
        }

    const int vector = threadIdx.x % VECTORS * 4, my_row = threadIdx.x / VECTORS, column = first + vector;
    const bool real_column = column < p.channels;
    const int from = real_column ? column : 0, mine = my_row * CHANNELS + vector;
    float bias[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) bias[i] = p.dt_bias ? load_any(p.dt_bias, from + i, p.bias_type) : 0.0f;
    const elem* dt_at = p.dt + row * p.dt_row + from;
    const elem* dout_at = p.dout + row * p.dout_row + from;
    const elem* z_at = p.z + row * p.z_row + from;
    const int c_row = threadIdx.x / WIDE, c_state = threadIdx.x % WIDE;
    const bool c_real = c_state < p.states && c_row < C_ROWS;
    const elem* C_at = p.C + row * p.C_row + (c_real ? c_state : 0);

    elem next_c[C_PASSES];
    const auto ask = [&](int start) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int t = pass * ROWS + my_row, at = min(start + t, p.length - 1);
            if (TILE % ROWS && t >= TILE) break;
            elem* to = raw + mine + pass * ROWS * CHANNELS;
            copy_four(to, dt_at + (i64)at * p.dt_step);
            copy_four(to + RAW, dout_at + (i64)at * p.dout_step);
            if (HAS_Z) copy_four(to + 2 * RAW, z_at + (i64)at * p.z_step);
        }
#pragma unroll
        for (int pass = 0; pass < C_PASSES; ++pass)
            next_c[pass] = C_at[(i64)min(start + pass * C_ROWS + c_row, p.length - 1) * p.C_step];
    };

    ask((to_tile - 1) * TILE);
    for (int tile = to_tile - 1; tile >= from_tile; --tile) {
        const int start = tile * TILE, count = min(TILE, p.length - start);
#pragma unroll
        for (int pass = 0; pass < C_PASSES; ++pass) {
            const int t = pass * C_ROWS + c_row;
            if (c_row < C_ROWS && (TILE % C_ROWS == 0 || t < TILE))
                Cs[t * WIDE + c_state] = c_real && t < count ? to_float(next_c[pass]) : 0.0f;
        }
        copies_wait();
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int t = pass * ROWS + my_row, hop = pass * ROWS * CHANNELS;
            if (TILE % ROWS && t >= TILE) break;
            const bool real = t < count && real_column;
            Four dt = load_four(raw + mine + hop), dy = load_four(raw + mine + hop + RAW);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float step = dt.v[i] + bias[i];
                dt.v[i] = real ? SOFTPLUS ? softplus(step) : step : 0.0f;
            }
#if HAS_Z
            const Four z = load_four(raw + mine + hop + 2 * RAW);
#pragma unroll
            for (int i = 0; i < 4; ++i) dy.v[i] *= z.v[i] * sigmoid(z.v[i]);
#endif
#pragma unroll
            for (int i = 0; i < 4; ++i) dy.v[i] = real ? dy.v[i] : 0.0f;
            store_many<4>(steps + t * ROW + vector, dt.v);
            store_many<4>(dys + t * ROW + vector, dy.v);
        }
        __syncthreads();
        if (tile > from_tile) ask(start - TILE);
#pragma unroll 4
        for (int t = TILE - 1; t >= 0; --t) {
            float step[PER], dy[PER], c[STATES];
            load_many<PER>(step, steps + t * ROW + local);
            load_many<PER>(dy, dys + t * ROW + local);
            load_many<STATES>(c, Cs + t * WIDE + lane * STATES);
#pragma unroll
            for (int k = 0; k < PER; ++k) {
                duration[k] += step[k];
#pragma unroll
                for (int j = 0; j < STATES; ++j)
                    carry[k][j] = decay_of(step[k], A[k][j]) * fmaf(dy[k], c[j], carry[k][j]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < PER; ++k) {
        const i64 at = ((i64)blockIdx.z * gridDim.y + row) * p.channels + first + local + k;
        if (first + local + k >= p.channels) break;
        store_many<STATES>(p.carries + at * WIDE + lane * STATES, carry[k]);
        if (lane == 0) p.durations[at] = duration[k];
    }
}
