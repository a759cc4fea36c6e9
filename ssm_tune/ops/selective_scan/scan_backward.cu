// The selective scan, backward. Tiles are walked from the end; the state at each tile's start was kept by the forward.
//
// With g_t the gradient of h_t and k_t = exp(dt_t A) g_t what flows on to h_{t-1}:
//     g_t = C_t dy_t + k_{t+1}        dC_t = sum over channels of dy_t (h_t + h')       dB_t = ... of dt_t u_t g_t
//     d(dt_t u_t) = sum over states of B_t g_t        d(dt_t) += sum over states of A k_t h_{t-1}
//
// Within a tile the states at the starts of its groups of GROUP positions are computed first, going forward; then,
// group by group from the end, decays and states are computed again into registers and walked backwards. The sums
// over channels run inside the block and leave as one partial sum a block: no atomics, the same bits every time.
//
// Where rows and channels are too few to fill the GPU, time is cut into segments of whole tiles (blockIdx.z): an earlier
// launch of scan_carry gives, for all but the first, what flows out of each if nothing flows in.
//
// Macros: DTYPE, LANES, STATES, CHANNELS, PER (channels a thread), TILE, GROUP, SOFTPLUS, HAS_Z, HAS_OFFSET, NARROW, and the
// gradients that are wanted: D_U, D_DT, D_B, D_C, D_Z, D_A, D_D, D_BIAS, D_OFFSET, D_OUTPUT.

#define THREADS (CHANNELS / PER * LANES)
#define WIDE (LANES * STATES)
#define WARPS (THREADS / 32)
#define ACROSS (32 / LANES)  // lanes of a warp that hold different channels of the same states

__device__ constexpr int power_of_two_part(int x) { return x % 2 ? 1 : 2 * power_of_two_part(x / 2); }
__device__ constexpr int minimum(int a, int b) { return a < b ? a : b; }

// Sums over channels are exchanged without a select: lanes that will meet keep their states in different orders, so
// that each sends its upper registers and keeps its lower ones. ORDERS orders, of BLOCKS_OF states that move together.
constexpr int ORDERS = minimum(power_of_two_part(STATES), ACROSS);
constexpr int TOGETHER = STATES / ORDERS;
constexpr bool SPLIT = ACROSS > ORDERS;  // one exchange more, that leaves dB to one lane and dC to the other

struct Backward {
    const elem *dout, *u, *dt, *z, *B, *C, *pre_gate;
    const float* A;
    const void *D, *dt_bias, *offset;
    const chunk_state_t* chunk_states;
    const float *dfinal, *carries, *durations;
    elem *du, *ddt, *dz;
    float *dB, *dC;  // (blocks, rows, length, states): partial sums
    float *dinitial, *dA, *doffset, *dD, *dbias, *doutput;  // (segments, rows, channels, ...), dinitial without segments
    i64 dout_row, u_row, dt_row, z_row, B_row, C_row, dz_row;       // strides of the batch, in elements
    int dout_step, u_step, dt_step, z_step, B_step, C_step, dz_step;  // strides of time
    int length, channels, states, segment, D_type, bias_type, offset_type, log_A;  // segment: tiles of one
};

constexpr int VECTORS = CHANNELS / 4;    // groups of four channels in a row of a tile
constexpr int ROWS = THREADS / VECTORS;  // positions that the block handles at once between the walks
constexpr int PASSES = (TILE + ROWS - 1) / ROWS;
constexpr int RAW = TILE * CHANNELS;     // elements of a raw tile; u and dt come twice: they are needed to the end
constexpr int ROW = CHANNELS + 8;        // a row of floats in shared memory, padded against bank conflicts
constexpr int BC_ROWS = THREADS / WIDE;  // positions whose dB and dC the block adds up at once
constexpr int BC_PASSES = (TILE + BC_ROWS - 1) / BC_ROWS;
constexpr int TWO_ROWS = 2 * BC_ROWS;    // positions of B and C that the block copies at once, two states a thread
constexpr int TWO_PASSES = (TILE + TWO_ROWS - 1) / TWO_ROWS;

// Where this thread's four channels begin.
struct Sources {
    const elem *u, *dt, *dout, *z, *pre_gate;
};

// Positions past the end are read from the last one and masked later: no branch, no invalid address.
__device__ __forceinline__ void fetch(const Backward& p, const Sources& from, elem* raw, int start, int my_row, int twin) {
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
        const int t = pass * ROWS + my_row, at = min(start + t, p.length - 1);
        if (TILE % ROWS && t >= TILE) break;
        elem* to = raw + pass * ROWS * CHANNELS;
        copy_four(to + twin * 2 * RAW, from.u + (i64)at * p.u_step);
        copy_four(to + twin * 2 * RAW + RAW, from.dt + (i64)at * p.dt_step);
        copy_four(to + 4 * RAW, from.dout + (i64)at * p.dout_step);
#if HAS_Z
        copy_four(to + 5 * RAW, from.z + (i64)at * p.z_step);
        copy_four(to + 6 * RAW, from.pre_gate + (i64)at * p.channels);
#endif
    }
}

// The state that register j of a lane holds, among the lane's own STATES.
__device__ __forceinline__ int state_of(int j, int order) { return (j / TOGETHER ^ order) * TOGETHER + j % TOGETHER; }

// Add dB and dC of one position over the warp's channels and leave them in sums (2, WIDE).
__device__ __forceinline__ void add_channels(float (&b)[STATES], float (&c)[STATES], float* sums, int lane, int across) {
#pragma unroll
    for (int half = ORDERS / 2; half >= 1; half /= 2) {
#pragma unroll
        for (int j = 0; j < half * TOGETHER; ++j) {
            if (D_B) b[j] += exchange(b[j + half * TOGETHER], LANES * half);
            if (D_C) c[j] += exchange(c[j + half * TOGETHER], LANES * half);
        }
    }
    const int n = lane * STATES + across % ORDERS * TOGETHER;
    const bool upper = across & ORDERS;
#pragma unroll
    for (int j = 0; j < TOGETHER; ++j) {
        if (SPLIT) {
            float kept = upper ? c[j] : b[j];
            kept += exchange(upper ? b[j] : c[j], LANES * ORDERS);
#pragma unroll
            for (int mask = 2 * ORDERS; mask < ACROSS; mask *= 2) kept += exchange(kept, LANES * mask);
            if (ACROSS == 2 * ORDERS || across < 2 * ORDERS) sums[(upper ? WIDE : 0) + n + j] = kept;
        } else {
            sums[n + j] = b[j];
            sums[WIDE + n + j] = c[j];
        }
    }
}

// The sum of x over the lanes that share a vector of four channels, for the first ROWS threads' worth of rows.
__device__ __forceinline__ void add_rows(float (&x)[4], float* scratch, float* to, i64 at, bool real) {
    __syncthreads();
    store_many<4>(scratch + threadIdx.x * 4, x);
    __syncthreads();
    if (threadIdx.x < VECTORS && real) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float sum = 0.0f;
            for (int r = 0; r < ROWS; ++r) sum += scratch[(r * VECTORS + threadIdx.x) * 4 + i];
            to[at + i] = sum;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_backward(const __grid_constant__ Backward p) {
    extern __shared__ float4 shared[];
    float* steps = (float*)shared;         // (TILE, ROW): dt after softplus, then du
    float* inputs = steps + TILE * ROW;    // (TILE, ROW): dt u, then d(dt u)
    float* dys = inputs + TILE * ROW;      // (TILE, ROW): dy, then the part of d(dt) that comes through A
    BC* bcs = (BC*)(dys + TILE * ROW);     // (TILE, ORDERS, WIDE)
    float* starts = (float*)(bcs + ORDERS * TILE * WIDE);  // (TILE / GROUP, PER, THREADS, STATES)
    float* sums = starts + TILE / GROUP * PER * THREADS * STATES;  // (WARPS, TILE, 2, WIDE)
    chunk_state_t* heads = (chunk_state_t*)(sums + WARPS * TILE * 2 * WIDE);  // (PER, THREADS, STATES): the states at the tile's start
    elem* raw = (elem*)(heads + PER * THREADS * STATES);
    elem* raw_bc = raw + (HAS_Z ? 7 : 5) * RAW + threadIdx.x * 2;  // (TWO_PASSES, 2, THREADS, 2): the next tile's B and C

    const int row = blockIdx.y, first = blockIdx.x * CHANNELS;
    const int lane = threadIdx.x % LANES, across = threadIdx.x % 32 / LANES, warp = threadIdx.x / 32;
    const int order = across % ORDERS, local = threadIdx.x / LANES * PER;
    const int tiles = (p.length + TILE - 1) / TILE;

    float A[PER][STATES], carry[PER][STATES];
#if HAS_OFFSET
    float offset[PER][STATES];
#endif
    // with float32 inputs the sums over time are sums of whole tiles' sums, which round less
#if D_A
    float dA[PER][STATES] = {};
#if DTYPE == 0
    float dA_before[PER][STATES] = {};
#endif
#endif
#if D_OFFSET
    float doffset[PER][STATES] = {};
#if DTYPE == 0
    float doffset_before[PER][STATES] = {};
#endif
#endif
#pragma unroll
    for (int k = 0; k < PER; ++k)
#pragma unroll
        for (int j = 0; j < STATES; ++j) {
            const int n = lane * STATES + state_of(j, order), channel = first + local + k;
            const bool real = channel < p.channels && n < p.states;
            const i64 at = (i64)channel * p.states + n;
            A[k][j] = real ? scaled_A(p.A[at], p.log_A) : 0.0f;
            carry[k][j] = real && p.dfinal ? p.dfinal[(i64)row * p.channels * p.states + at] : 0.0f;
#if HAS_OFFSET
            offset[k][j] = real ? load_any(p.offset, at, p.offset_type) : 0.0f;
#endif
        }

    const int vector = threadIdx.x % VECTORS * 4, column = first + vector;
    const bool real_column = column < p.channels;
    float bias[4], D[PER];
#pragma unroll
    for (int i = 0; i < 4; ++i) bias[i] = real_column && p.dt_bias ? load_any(p.dt_bias, column + i, p.bias_type) : 0.0f;
#pragma unroll
    for (int k = 0; k < PER; ++k)
        D[k] = first + local + k < p.channels && p.D ? load_any(p.D, first + local + k, p.D_type) : 0.0f;
#if D_D
    float dD[4] = {};
#endif
#if D_BIAS
    float dbias[4] = {};
#endif
#if D_OUTPUT
    float doutput[4] = {};
#endif

    const int my_row = threadIdx.x / VECTORS, mine = my_row * CHANNELS + vector, from = real_column ? column : 0;
    const i64 flat = (i64)row * p.length * p.channels + column;
    const Sources sources = {p.u + row * p.u_row + from, p.dt + row * p.dt_row + from, p.dout + row * p.dout_row + from,
                             p.z + row * p.z_row + from, p.pre_gate + (real_column ? flat : 0)};
    const int bc_row = threadIdx.x / WIDE, bc_state = threadIdx.x % WIDE;
    const bool bc_real = bc_state < p.states && bc_row < BC_ROWS;
    const int two_row = threadIdx.x / (WIDE / 2), two_state = threadIdx.x % (WIDE / 2) * 2;
    const bool two_real = two_row < TWO_ROWS;
    const elem* B_at = p.B + row * p.B_row + min(two_state, (p.states - 1) / 2 * 2);
    const elem* C_at = p.C + row * p.C_row + min(two_state, (p.states - 1) / 2 * 2);
    const int segment = blockIdx.z, segments = gridDim.z;
    const i64 flow = (i64)gridDim.y * p.channels;  // rows x channels
    const i64 partial = ((i64)blockIdx.x * gridDim.y + row) * p.length * p.states + bc_state;
    raw += mine;

    const auto ask = [&](int tile) {  // for B, C and the states at the tile's start
#pragma unroll
        for (int pass = 0; pass < TWO_PASSES; ++pass) {
            const int at = min(tile * TILE + pass * TWO_ROWS + two_row, p.length - 1);
            copy_async<2 * sizeof(elem)>(raw_bc + pass * 4 * THREADS, B_at + (i64)at * p.B_step);
            copy_async<2 * sizeof(elem)>(raw_bc + pass * 4 * THREADS + 2 * THREADS, C_at + (i64)at * p.C_step);
        }
#pragma unroll
        for (int k = 0; k < PER; ++k) {
            const int channel = min(first + local + k, p.channels - 1);
            const chunk_state_t* from = p.chunk_states + (((i64)row * tiles + tile) * p.channels + channel) * WIDE + lane * STATES;
            constexpr int PIECE = STATES % 4 == 0 ? 4 : STATES % 2 == 0 ? 2 : 1;
#pragma unroll
            for (int j = 0; j < STATES; j += PIECE)
                copy_async<sizeof(chunk_state_t) * PIECE>(heads + (k * THREADS + threadIdx.x) * STATES + j, from + j);
        }
    };

    const int from_tile = segment * p.segment, to_tile = min(from_tile + p.segment, tiles);
    fetch(p, sources, raw, (to_tile - 1) * TILE, my_row, (to_tile - 1) & 1);
    ask(to_tile - 1);
    for (int s = segments - 1; s > segment; --s) {  // what the later segments hand back
#pragma unroll
        for (int k = 0; k < PER; ++k) {
            const i64 channel = (s - 1) * flow + (i64)row * p.channels + min(first + local + k, p.channels - 1);
            const float duration = p.durations[channel];
#pragma unroll
            for (int j = 0; j < STATES; ++j)
                carry[k][j] = fmaf(decay_of(duration, A[k][j]), carry[k][j],
                                   p.carries[channel * WIDE + lane * STATES + state_of(j, order)]);
        }
    }
    for (int tile = to_tile - 1; tile >= from_tile; --tile) {
        const int start = tile * TILE, count = min(TILE, p.length - start);
        const elem* kept = raw + (tile & 1) * 2 * RAW;
        copies_wait();  // every thread reads only what it fetched itself: no barrier yet
#pragma unroll
        for (int pass = 0; pass < TWO_PASSES; ++pass) {
            const int t = pass * TWO_ROWS + two_row;
            if (!two_real || (TILE % TWO_ROWS && t >= TILE)) break;
            const elem* from = raw_bc + pass * 4 * THREADS;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int n = two_state + i, at = t * ORDERS * WIDE + n / STATES * STATES;
                const BC bc = pack_bc(from[i], from[2 * THREADS + i], n < p.states && t < count);
#pragma unroll
                for (int o = 0; o < ORDERS; ++o)  // state_of is its own inverse
                    bcs[o * WIDE + at + state_of(n % STATES, o)] = bc;
            }
        }
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int t = pass * ROWS + my_row, hop = pass * ROWS * CHANNELS;
            if (TILE % ROWS && t >= TILE) break;
            const bool real = t < count && real_column;
            const Four u = load_four(kept + hop), dt = load_four(kept + hop + RAW);
            Four dy = load_four(raw + hop + 4 * RAW);
#if HAS_Z
            const Four z = load_four(raw + hop + 5 * RAW), y = load_four(raw + hop + 6 * RAW);
            Four dz;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float s = sigmoid(z.v[i]), gate = z.v[i] * s;
                dz.v[i] = dy.v[i] * y.v[i] * fmaf(gate, 1.0f - s, s);
                dy.v[i] *= gate;
            }
            if (D_Z && real) store_four(p.dz + row * p.dz_row + (i64)(start + t) * p.dz_step + column, dz);
#endif
            float step_of[4], input_of[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float step = dt.v[i] + bias[i];
                if (SOFTPLUS) step = softplus(step);
                step_of[i] = real ? step : 0.0f;  // a step of 0 leaves the state as it is
                input_of[i] = step_of[i] * u.v[i];
                dy.v[i] = real ? dy.v[i] : 0.0f;
#if D_D
                if (real) dD[i] = fmaf(dy.v[i], u.v[i], dD[i]);
#endif
#if D_OUTPUT
                doutput[i] += dy.v[i];
#endif
            }
            store_many<4>(steps + t * ROW + vector, step_of);
            store_many<4>(inputs + t * ROW + vector, input_of);
            store_many<4>(dys + t * ROW + vector, dy.v);
        }
        __syncthreads();
        if (tile > from_tile) fetch(p, sources, raw, start - TILE, my_row, (tile - 1) & 1);

        // going forward: the states at the starts of the groups
        float state[PER][STATES];
#pragma unroll
        for (int k = 0; k < PER; ++k) {
#pragma unroll
            for (int j = 0; j < STATES; ++j)
                state[k][j] = from_chunk_state(heads[(k * THREADS + threadIdx.x) * STATES + state_of(j, order)]);
            store_many<STATES>(starts + (k * THREADS + threadIdx.x) * STATES, state[k]);
        }
#pragma unroll 1
        for (int group = 1; group < TILE / GROUP; ++group) {
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                const int t = (group - 1) * GROUP + i;
                float step[PER], input[PER];
                BC bc[STATES];
                load_bc<STATES>(bc, bcs + (t * ORDERS + order) * WIDE + lane * STATES);
                load_many<PER>(step, steps + t * ROW + local);
                load_many<PER>(input, inputs + t * ROW + local);
#pragma unroll
                for (int k = 0; k < PER; ++k)
#pragma unroll
                    for (int j = 0; j < STATES; ++j)
                        state[k][j] = fmaf(decay_of(step[k], A[k][j]), state[k][j], input[k] * b_of(bc[j]));
            }
#pragma unroll
            for (int k = 0; k < PER; ++k)
                store_many<STATES>(starts + ((group * PER + k) * THREADS + threadIdx.x) * STATES, state[k]);
        }
        if (tile > from_tile) ask(tile - 1);

#pragma unroll 1
        for (int group = TILE / GROUP - 1; group >= 0; --group) {
            float decay[GROUP][PER][STATES], h[GROUP + 1][PER][STATES];
            float step[GROUP][PER], input[GROUP][PER];
            BC bc[GROUP][STATES];
#pragma unroll
            for (int k = 0; k < PER; ++k)
                load_many<STATES>(h[0][k], starts + ((group * PER + k) * THREADS + threadIdx.x) * STATES);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                const int t = group * GROUP + i;
                load_bc<STATES>(bc[i], bcs + (t * ORDERS + order) * WIDE + lane * STATES);
                load_many<PER>(step[i], steps + t * ROW + local);
                load_many<PER>(input[i], inputs + t * ROW + local);
#pragma unroll
                for (int k = 0; k < PER; ++k)
#pragma unroll
                    for (int j = 0; j < STATES; ++j) {
                        decay[i][k][j] = decay_of(step[i][k], A[k][j]);
                        h[i + 1][k][j] = fmaf(decay[i][k][j], h[i][k][j], input[i][k] * b_of(bc[i][j]));
                    }
            }
            constexpr int SPAN = minimum(LANES, GROUP);  // positions whose sums over states are scattered together
#pragma unroll
            for (int base = GROUP - SPAN; base >= 0; base -= SPAN) {
                float through_u[PER][SPAN], through_A[PER][SPAN];
#pragma unroll
                for (int i = SPAN - 1; i >= 0; --i) {
                    const int t = group * GROUP + base + i;
                    float dy[PER], dB[STATES] = {}, dC[STATES] = {};
                    load_many<PER>(dy, dys + t * ROW + local);
#pragma unroll
                    for (int k = 0; k < PER; ++k) {
                        float sum_u = 0.0f, sum_A = 0.0f;
#pragma unroll
                        for (int j = 0; j < STATES; ++j) {
                            const float c = c_of(bc[base + i][j]), g = fmaf(dy[k], c, carry[k][j]);
                            dB[j] = fmaf(g, input[base + i][k], dB[j]);
#if HAS_OFFSET
                            dC[j] = fmaf(dy[k], h[base + i + 1][k][j] + offset[k][j], dC[j]);
#else
                            dC[j] = fmaf(dy[k], h[base + i + 1][k][j], dC[j]);
#endif
                            sum_u = fmaf(b_of(bc[base + i][j]), g, sum_u);
                            carry[k][j] = decay[base + i][k][j] * g;
#if D_DT || D_A
                            const float inner = carry[k][j] * h[base + i][k][j];
                            sum_A = fmaf(A[k][j], inner, sum_A);
#endif
#if D_A
                            dA[k][j] = fmaf(inner, step[base + i][k], dA[k][j]);
#endif
#if D_OFFSET
                            doffset[k][j] = fmaf(dy[k], c, doffset[k][j]);
#endif
                        }
                        through_u[k][i] = sum_u, through_A[k][i] = sum_A;
                    }
                    if (D_B || D_C) add_channels(dB, dC, sums + (warp * TILE + t) * 2 * WIDE, lane, across);
                }
                if (D_U || D_DT) {
                    const int at = (group * GROUP + base + lane % SPAN) * ROW + local;
                    float du[PER], dinput[PER], dstep[PER], dy[PER], dt[PER];
                    __syncwarp();
                    load_many<PER>(dt, steps + at);
                    load_many<PER>(dy, dys + at);
#pragma unroll
                    for (int k = 0; k < PER; ++k) {
                        reduce_scatter<SPAN>(through_u[k], lane);
                        if (D_DT) reduce_scatter<SPAN>(through_A[k], lane);
#pragma unroll
                        for (int mask = SPAN; mask < LANES; mask *= 2) {
                            through_u[k][0] += exchange(through_u[k][0], mask);
                            through_A[k][0] += exchange(through_A[k][0], mask);
                        }
                        du[k] = fmaf(through_u[k][0], dt[k], D[k] * dy[k]);
                        dinput[k] = through_u[k][0];
                        dstep[k] = through_A[k][0] * A_UNSCALE;
                    }
                    if (LANES > SPAN) __syncwarp();  // other lanes have read what is overwritten
                    if (lane < SPAN) {
                        store_many<PER>(steps + at, du);
                        store_many<PER>(inputs + at, dinput);
                        store_many<PER>(dys + at, dstep);
                    }
                }
            }
        }
        __syncthreads();
        if (D_U || D_DT || D_BIAS) {
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                const int t = pass * ROWS + my_row, at = t * ROW + vector;
                if (t >= count || !real_column) break;
                const i64 to = flat + (i64)(start + t) * p.channels;
                const int hop = pass * ROWS * CHANNELS;
                if (D_U) {
                    Four du;
                    load_many<4>(du.v, steps + at);
                    store_four(p.du + to, du);
                }
                if (D_DT || D_BIAS) {
                    Four ddt;
                    float dinput[4], dstep[4];
                    load_many<4>(dinput, inputs + at);
                    load_many<4>(dstep, dys + at);
                    const Four u = load_four(kept + hop);
                    const Four dt = load_four(kept + hop + RAW);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        ddt.v[i] = fmaf(dinput[i], u.v[i], dstep[i]);
                        if (SOFTPLUS) ddt.v[i] *= sigmoid(dt.v[i] + bias[i]);
#if D_BIAS
                        dbias[i] += ddt.v[i];
#endif
                    }
                    if (D_DT) store_four(p.ddt + to, ddt);
                }
            }
        }
#if D_A && DTYPE == 0
#pragma unroll
        for (int k = 0; k < PER; ++k)
#pragma unroll
            for (int j = 0; j < STATES; ++j) dA_before[k][j] += dA[k][j], dA[k][j] = 0.0f;
#endif
#if D_OFFSET && DTYPE == 0
#pragma unroll
        for (int k = 0; k < PER; ++k)
#pragma unroll
            for (int j = 0; j < STATES; ++j) doffset_before[k][j] += doffset[k][j], doffset[k][j] = 0.0f;
#endif
        if ((D_B || D_C) && bc_real) {
#pragma unroll
            for (int pass = 0; pass < BC_PASSES; ++pass) {
                const int t = pass * BC_ROWS + bc_row;
                if (t >= count) break;
                float b = 0.0f, c = 0.0f;
#pragma unroll
                for (int w = 0; w < WARPS; ++w) {
                    b += sums[(w * TILE + t) * 2 * WIDE + bc_state];
                    c += sums[(w * TILE + t) * 2 * WIDE + WIDE + bc_state];
                }
                const i64 at = partial + (i64)(start + t) * p.states;
                if (D_B) p.dB[at] = b;
                if (D_C) p.dC[at] = c;
            }
        }
    }

#pragma unroll
    for (int k = 0; k < PER; ++k)
#pragma unroll
        for (int j = 0; j < STATES; ++j) {
            const int n = lane * STATES + state_of(j, order), channel = first + local + k;
            if (channel >= p.channels || n >= p.states) continue;
            const i64 at = (segment * flow + (i64)row * p.channels + channel) * p.states + n;
            if (p.dinitial && segment == 0) p.dinitial[at] = carry[k][j];
#if D_A && DTYPE == 0
            p.dA[at] = dA_before[k][j] * (p.log_A ? A[k][j] * A_UNSCALE : 1.0f);
#elif D_A
            p.dA[at] = dA[k][j] * (p.log_A ? A[k][j] * A_UNSCALE : 1.0f);
#endif
#if D_OFFSET && DTYPE == 0
            p.doffset[at] = doffset_before[k][j];
#elif D_OFFSET
            p.doffset[at] = doffset[k][j];
#endif
        }
    const i64 at = segment * flow + (i64)row * p.channels + column;
#if D_D
    add_rows(dD, steps, p.dD, at, real_column);
#endif
#if D_BIAS
    add_rows(dbias, steps, p.dbias, at, real_column);
#endif
#if D_OUTPUT
    add_rows(doutput, steps, p.doutput, at, real_column);
#endif
}
