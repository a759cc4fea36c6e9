// The selective scan, forward: h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t,  y_t = C_t (h_t + h') + y' + D u_t, gated by z.
//
// A block owns CHANNELS channels of one sequence and walks along it in tiles of TILE positions. LANES neighbouring
// lanes share PER channels, STATES states of each, in registers. What is needed once per (position, channel), such as
// softplus, gate and rounding, is done between the walks by all threads, four channels at a time.
//
// Macros: DTYPE, LANES, STATES, PER, CHANNELS, TILE, SOFTPLUS, HAS_Z, HAS_OFFSET, KEEP (save what the backward needs:
// states every CHUNK positions, NARROW or not, and the output before its gate).

#define THREADS (CHANNELS / PER * LANES)
#define WIDE (LANES * STATES)  // states of a channel, padded

struct Forward {
    const elem *u, *dt, *z, *B, *C;
    const float* A;
    const void *D, *dt_bias, *initial, *offset, *output_offset;
    elem *out, *pre_gate;
    chunk_state_t* chunk_states;
    float* final_state;
    i64 u_row, dt_row, z_row, B_row, C_row, initial_row;  // strides of the batch, in elements
    int u_step, dt_step, z_step, B_step, C_step;          // strides of time
    int length, channels, states, D_type, bias_type, initial_type, offset_type, output_type, log_A;  // log_A: A is A_log
};

constexpr int VECTORS = CHANNELS / 4;    // groups of four channels in a row of a tile
constexpr int ROWS = THREADS / VECTORS;  // positions that the block handles at once between the walks
constexpr int PASSES = (TILE + ROWS - 1) / ROWS;
constexpr int ROW = CHANNELS + 8;        // a row of floats in shared memory, padded against bank conflicts
constexpr int RAW = TILE * CHANNELS;     // elements of a raw tile
constexpr int RAWS = HAS_Z ? 3 : 2;      // u, dt and z
constexpr int BC_ROWS = THREADS / WIDE;  // positions of B and C that the block loads at once
constexpr int BC_PASSES = (TILE + BC_ROWS - 1) / BC_ROWS;

// Where this thread's four channels of u, dt and z begin.
struct Sources {
    const elem *u, *dt, *z;
};

// Positions past the end are read from the last one and masked later: no branch, no invalid address.
__device__ __forceinline__ void fetch(const Forward& p, const Sources& from, elem* raw, int start, int my_row) {
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
        const int t = pass * ROWS + my_row, at = min(start + t, p.length - 1);
        if (TILE % ROWS && t >= TILE) break;
        copy_four(raw + pass * ROWS * CHANNELS, from.u + (i64)at * p.u_step);
        copy_four(raw + pass * ROWS * CHANNELS + RAW, from.dt + (i64)at * p.dt_step);
        if (HAS_Z) copy_four(raw + pass * ROWS * CHANNELS + 2 * RAW, from.z + (i64)at * p.z_step);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_forward(const __grid_constant__ Forward p) {
    extern __shared__ float4 shared[];
    float* steps = (float*)shared;           // (TILE, ROW): dt after softplus, then y
    float* inputs = steps + TILE * ROW;      // (TILE, ROW): dt u
    BC* bcs = (BC*)(inputs + TILE * ROW);    // (TILE, WIDE)
    elem* raws = (elem*)(bcs + TILE * WIDE);  // two sets of raw tiles: the next one arrives while this one is used

    const int row = blockIdx.y, first = blockIdx.x * CHANNELS;
    const int lane = threadIdx.x % LANES, local = threadIdx.x / LANES * PER;

    float A[PER][STATES], h[PER][STATES];
#if HAS_OFFSET
    float offset[PER][STATES];
#endif
#pragma unroll
    for (int k = 0; k < PER; ++k)
#pragma unroll
        for (int j = 0; j < STATES; ++j) {
            const int n = lane * STATES + j, channel = first + local + k;
            const bool real = channel < p.channels && n < p.states;
            const i64 at = (i64)channel * p.states + n;
            A[k][j] = real ? scaled_A(p.A[at], p.log_A) : 0.0f;
            h[k][j] = real && p.initial ? load_any(p.initial, row * p.initial_row + at, p.initial_type) : 0.0f;
#if HAS_OFFSET
            offset[k][j] = real ? load_any(p.offset, at, p.offset_type) : 0.0f;
#endif
        }

    const int vector = threadIdx.x % VECTORS * 4, column = first + vector;
    const bool real_column = column < p.channels;
    float bias[4], D[4], shift[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        bias[i] = real_column && p.dt_bias ? load_any(p.dt_bias, column + i, p.bias_type) : 0.0f;
        D[i] = real_column && p.D ? load_any(p.D, column + i, p.D_type) : 0.0f;
        shift[i] = real_column && p.output_offset ? load_any(p.output_offset, column + i, p.output_type) : 0.0f;
    }

    const int my_row = threadIdx.x / VECTORS, mine = my_row * CHANNELS + vector, from = real_column ? column : 0;
    const Sources sources = {p.u + row * p.u_row + from, p.dt + row * p.dt_row + from, p.z + row * p.z_row + from};
    const i64 out_at = (i64)row * p.length * p.channels + column;
    const int bc_row = threadIdx.x / WIDE, bc_state = threadIdx.x % WIDE;
    const bool bc_real = bc_state < p.states && bc_row < BC_ROWS;
    const elem* B_at = p.B + row * p.B_row + (bc_real ? bc_state : 0);
    const elem* C_at = p.C + row * p.C_row + (bc_real ? bc_state : 0);

    const i64 chunk_row = (i64)row * ((p.length + CHUNK - 1) / CHUNK), chunk_size = (i64)p.channels * WIDE;
    const i64 chunk_at = (i64)(first + local) * WIDE + lane * STATES;
    elem next_b[BC_PASSES], next_c[BC_PASSES];  // asked for one tile ahead
    const auto ask = [&](int start) {
#pragma unroll
        for (int pass = 0; pass < BC_PASSES; ++pass) {
            const int at = min(start + pass * BC_ROWS + bc_row, p.length - 1);
            next_b[pass] = B_at[(i64)at * p.B_step];
            next_c[pass] = C_at[(i64)at * p.C_step];
        }
    };

    fetch(p, sources, raws + mine, 0, my_row);
    ask(0);
    int buffer = 0;
    for (int start = 0; start < p.length; start += TILE, buffer ^= 1) {
        const elem* raw = raws + buffer * RAWS * RAW + mine;
        const int count = min(TILE, p.length - start);
#pragma unroll
        for (int pass = 0; pass < BC_PASSES; ++pass) {
            const int t = pass * BC_ROWS + bc_row;
            if (bc_row < BC_ROWS && (TILE % BC_ROWS == 0 || t < TILE))
                bcs[t * WIDE + bc_state] = pack_bc(next_b[pass], next_c[pass], bc_real && t < count);
        }
        copies_wait();  // every thread reads only what it fetched itself: no barrier yet
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int t = pass * ROWS + my_row;
            if (TILE % ROWS && t >= TILE) break;
            const Four u = load_four(raw + pass * ROWS * CHANNELS), dt = load_four(raw + pass * ROWS * CHANNELS + RAW);
            float step_of[4], input_of[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float step = dt.v[i] + bias[i];
                if (SOFTPLUS) step = softplus(step);
                step = t < count ? step : 0.0f;  // a step of 0 leaves the state as it is
                step_of[i] = step;
                input_of[i] = step * u.v[i];
            }
            store_many<4>(steps + t * ROW + vector, step_of);
            store_many<4>(inputs + t * ROW + vector, input_of);
        }
        __syncthreads();
        if (start + TILE < p.length) {
            fetch(p, sources, raws + (buffer ^ 1) * RAWS * RAW + mine, start + TILE, my_row);
            ask(start + TILE);
        }
#pragma unroll 1
        for (int part = 0; part < TILE; part += CHUNK) {
#if KEEP
            if (part < count) {
                chunk_state_t* to = p.chunk_states + (chunk_row + (start + part) / CHUNK) * chunk_size + chunk_at;
#pragma unroll
                for (int k = 0; k < PER; ++k)
                    if (first + local + k < p.channels) store_chunk_state<STATES>(to + k * WIDE, h[k]);
            }
#endif
#pragma unroll 1
            for (int t0 = part; t0 < part + CHUNK; t0 += LANES) {
                float y[PER][LANES];
#pragma unroll
                for (int i = 0; i < LANES; ++i) {
                    const int t = t0 + i;
                    float step[PER], input[PER];
                    BC bc[STATES];
                    load_many<PER>(step, steps + t * ROW + local);
                    load_many<PER>(input, inputs + t * ROW + local);
                    load_bc<STATES>(bc, bcs + t * WIDE + lane * STATES);
#pragma unroll
                    for (int k = 0; k < PER; ++k) {
                        float sum = 0.0f;
#pragma unroll
                        for (int j = 0; j < STATES; ++j) {
                            h[k][j] = fmaf(decay_of(step[k], A[k][j]), h[k][j], input[k] * b_of(bc[j]));
                            sum = fmaf(c_of(bc[j]), h[k][j], sum);
#if HAS_OFFSET
                            sum = fmaf(c_of(bc[j]), offset[k][j], sum);
#endif
                        }
                        y[k][i] = sum;
                    }
                }
                __syncwarp();
                float sums[PER];
#pragma unroll
                for (int k = 0; k < PER; ++k) {
                    reduce_scatter<LANES>(y[k], lane);
                    sums[k] = y[k][0];
                }
                store_many<PER>(steps + (t0 + lane) * ROW + local, sums);
            }
        }
        __syncthreads();
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int t = pass * ROWS + my_row;
            if (t >= count || !real_column) break;
            const Four u = load_four(raw + pass * ROWS * CHANNELS);
            Four y;
            load_many<4>(y.v, steps + t * ROW + vector);
#pragma unroll
            for (int i = 0; i < 4; ++i) y.v[i] += fmaf(D[i], u.v[i], shift[i]);
            const i64 at = out_at + (i64)(start + t) * p.channels;
#if HAS_Z
#if KEEP
            store_four(p.pre_gate + at, y);
#endif
            const Four z = load_four(raw + pass * ROWS * CHANNELS + 2 * RAW);
#pragma unroll
            for (int i = 0; i < 4; ++i) y.v[i] *= z.v[i] * sigmoid(z.v[i]);
#endif
            store_four(p.out + at, y);
        }
    }
    if (!p.final_state) return;
#pragma unroll
    for (int k = 0; k < PER; ++k)
#pragma unroll
        for (int j = 0; j < STATES; ++j) {
            const int n = lane * STATES + j, channel = first + local + k;
            if (channel < p.channels && n < p.states)
                p.final_state[((i64)row * p.channels + channel) * p.states + n] = h[k][j];
        }
}
