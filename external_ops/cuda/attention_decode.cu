// Attention of one to eight queries per row over a long (paged) cache, split over the sequence.
//
// The time is that of reading the keys and values once. One block takes a part of the slots of one (row, head): groups
// of kLanes lanes read a key and a value each, 16 bytes per lane and access, kUnroll of both before the first is used,
// and keep a softmax of their own in float32 (running maximum, sum, weighted values), so that lanes speak to each other
// for the scores only. The groups' results are joined in shared memory and, if there are several parts, a second small
// kernel joins those. Under way per multiprocessor: 16 warps * 32 lanes * 128 bytes = 64 KB, where an A100 needs about
// 11 KB and an H200 25 KB (latency * bandwidth), so that the ends of short parts do not starve it.
#include "common.cuh"
#include "device.cuh"

namespace paddlemix {
namespace {

constexpr int kThreads = 128;
constexpr int kElements = 8;     // of the head dimension, per lane
constexpr int kLeastSlots = 64;  // of a split: less would cost more in joining than it gains
constexpr int kMostQueries = 8;
constexpr int kMostHeadDim = 256;
constexpr float kLog2e = 1.44269504f;  // scores are kept times this, for exp2f

struct Problem {
  paddlemix_kv kv;
  paddlemix_visibility visibility;
  paddlemix_strides query_strides;
  float scale;  // times log2(e)
  int length, head_dim;
};

// Eight elements of a key or value as they are read.
template <typename T>
struct Eight {
  Pack<T, kVector<T>> packs[kElements / kVector<T>];

  __device__ __forceinline__ void clear() { memset(packs, 0, sizeof(packs)); }

  // Past the first-level cache: nothing is read twice.
  template <bool kAligned>
  __device__ __forceinline__ void read(const T* address) {
    if constexpr (kAligned) {
#pragma unroll
      for (int i = 0; i < kElements / kVector<T>; ++i) {
        const uint4 word = __ldcs(reinterpret_cast<const uint4*>(address) + i);
        memcpy(&packs[i], &word, sizeof(word));
      }
    } else {
#pragma unroll
      for (int j = 0; j < kElements; ++j) packs[j / kVector<T>].values[j % kVector<T>] = address[j];
    }
  }

  __device__ __forceinline__ float operator[](int j) const {
    return to_float(packs[j / kVector<T>].values[j % kVector<T>]);
  }
};

__device__ __forceinline__ int64_t slot_offset(const paddlemix_kv& kv, int row, int head, int slot) {
  int64_t block = row, within = slot;
  if (kv.block_table != nullptr) {
    const int size = static_cast<int>(kv.block_size);
    block = kv.block_table[row * kv.table_width + slot / size];
    within = slot % size;
  }
  return block * kv.block_stride + head * kv.head_stride + within * kv.slot_stride;
}

// What a running maximum is subtracted as: a maximum of -inf has seen nothing, and every weight is exp2(-inf) = 0.
__device__ __forceinline__ float finite_base(float maximum) { return maximum == -INFINITY ? 0.f : maximum; }

// The sums of exp2(score - maximum) and of the values weighted with it, of one query over some slots.
template <typename T, int kLanes, int kQueries, bool kAligned>
__global__ void __launch_bounds__(kThreads, kQueries == 1 ? 4 : 2)
    attention_decode_kernel(const T* query, Problem problem, T* out, float2* part_sums, float* part_values) {
  constexpr int kGroups = kThreads / kLanes;
  constexpr int kUnroll = kQueries > 4 || sizeof(T) == 4 ? 2 : 4;
  const int split = static_cast<int>(blockIdx.x), splits = static_cast<int>(gridDim.x);
  const int head = static_cast<int>(blockIdx.y), heads = static_cast<int>(gridDim.y);
  const int row = static_cast<int>(blockIdx.z);
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int element = static_cast<int>(threadIdx.x) % kLanes * kElements;
  const int length = problem.length, head_dim = problem.head_dim;
  const bool active = element < head_dim;
  const paddlemix_visibility& visibility = problem.visibility;

  // The slots that some query of the row sees, and this block's part of them.
  const bool causal = visibility.query_starts != nullptr;
  const int query_start = causal ? visibility.query_starts[row] : 0;
  const int lower = visibility.kv_starts != nullptr ? visibility.kv_starts[row] : 0;
  const int kv_length = visibility.kv_lengths[row];
  const int upper = causal ? min(kv_length, query_start + length) : kv_length;
  const int part = round_up(ceil_div(max(upper - lower, 0), splits), kGroups);
  const int first = lower + split * part;
  const int last = min(first + part, upper);

  float q[kQueries][kElements], values[kQueries][kElements] = {}, maximum[kQueries], sum[kQueries];
#pragma unroll
  for (int t = 0; t < kQueries; ++t) {
    maximum[t] = -INFINITY;
    sum[t] = 0.f;
    Eight<T> read;
    read.clear();
    if (active && t < length) {
      const int64_t at = row * problem.query_strides.batch + head * problem.query_strides.head +
                         t * problem.query_strides.position + element;
      read.template read<kAligned>(query + at);
    }
#pragma unroll
    for (int j = 0; j < kElements; ++j) q[t][j] = read[j] * problem.scale;
  }

  const float* mask = visibility.mask;
  if (mask != nullptr) mask += (visibility.mask_batch == 1 ? 0 : row) * length * visibility.mask_width;
  // A lane past the end of the head reads the first elements again, without a branch, and its products count for nothing.
  const T* const keys = static_cast<const T*>(problem.kv.keys) + (active ? element : 0);
  const T* const all_values = static_cast<const T*>(problem.kv.values) + (active ? element : 0);
  for (int base = first; base < last; base += kGroups * kUnroll) {
    // All places first, and what is past the end reads the last slot again: no load waits for another one or a branch.
    int64_t at[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      at[u] = slot_offset(problem.kv, row, head, min(base + u * kGroups + group, last - 1));
    }
    Eight<T> key[kUnroll], value[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) key[u].template read<kAligned>(keys + at[u]);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) value[u].template read<kAligned>(all_values + at[u]);
    __syncwarp();  // keeps the compiler from moving loads to their first use, one trip to memory behind the other
#pragma unroll
    for (int t = 0; t < kQueries; ++t) {
      const int limit = causal ? min(last, query_start + t + 1) : last;
      float score[kUnroll];
      float highest = maximum[t];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        float dot = 0.f;
#pragma unroll
        for (int j = 0; j < kElements; ++j) dot += q[t][j] * key[u][j];
        dot = warp_sum<kLanes>(active ? dot : 0.f);
        const int slot = base + u * kGroups + group;
        const bool visible = slot < limit && t < length;
        if (mask != nullptr && visible) dot += mask[t * visibility.mask_width + slot] * kLog2e;
        score[u] = visible ? dot : -INFINITY;
        highest = fmaxf(highest, score[u]);
      }
      const float subtracted = finite_base(highest);
      const float correction = exp2f(maximum[t] - subtracted);
      maximum[t] = highest;
      sum[t] *= correction;
#pragma unroll
      for (int j = 0; j < kElements; ++j) values[t][j] *= correction;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const float weight = exp2f(score[u] - subtracted);
        sum[t] += weight;
        if (weight != 0.f) {  // what is invisible may be anything, NaN included
#pragma unroll
          for (int j = 0; j < kElements; ++j) values[t][j] += weight * value[u][j];
        }
      }
    }
  }

  __shared__ float group_values[kGroups][kLanes * kElements];
  __shared__ float2 group_sums[kGroups];  // maximum, sum
#pragma unroll
  for (int t = 0; t < kQueries; ++t) {
    if (t >= length) break;
    __syncthreads();  // the readers of the last query are done
#pragma unroll
    for (int j = 0; j < kElements; ++j) group_values[group][element + j] = values[t][j];
    if (element == 0) group_sums[group] = make_float2(maximum[t], sum[t]);
    __syncthreads();
    float highest = -INFINITY, total = 0.f, weights[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) highest = fmaxf(highest, group_sums[g].x);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      weights[g] = exp2f(group_sums[g].x - finite_base(highest));
      total += weights[g] * group_sums[g].y;
    }
    const int64_t result = (static_cast<int64_t>(row) * length + t) * heads + head;
    for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += kThreads) {
      float joined = 0.f;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) joined += weights[g] * group_values[g][d];
      if (splits == 1) {
        out[result * head_dim + d] = from_float<T>(total == 0.f ? 0.f : joined / total);
      } else {
        part_values[(result * splits + split) * head_dim + d] = joined;
      }
    }
    if (splits > 1 && threadIdx.x == 0) part_sums[result * splits + split] = make_float2(highest, total);
  }
}

// One block per (row, query, head), one thread per element of the head.
template <typename T>
__global__ void __launch_bounds__(kMostHeadDim)
    attention_join_kernel(const float2* part_sums, const float* part_values, T* out, int splits) {
  const int64_t result = blockIdx.x;
  const int head_dim = static_cast<int>(blockDim.x), d = static_cast<int>(threadIdx.x);
  const float2* const sums = part_sums + result * splits;
  const float* const values = part_values + result * splits * head_dim;
  float highest = -INFINITY, total = 0.f, joined = 0.f;
  for (int split = 0; split < splits; ++split) highest = fmaxf(highest, sums[split].x);
#pragma unroll 4
  for (int split = 0; split < splits; ++split) {
    const float weight = exp2f(sums[split].x - finite_base(highest));
    total += weight * sums[split].y;
    joined += weight * values[static_cast<int64_t>(split) * head_dim + d];
  }
  out[result * head_dim + d] = from_float<T>(total == 0.f ? 0.f : joined / total);
}

// Enough blocks to fill the device at once (4 per multiprocessor for one query, 2 for more, which take more registers),
// none with too little to do. The same for the launch as for its workspace.
int64_t count_splits(int64_t batch, int64_t heads, int64_t length, int64_t longest_kv) {
  const int64_t processors = current_device().multiprocessors;
  const int64_t wanted = ceil_div<int64_t>(processors * (length == 1 ? 4 : 2), batch * heads);
  const int64_t most = ceil_div<int64_t>(longest_kv, kLeastSlots);
  const int64_t splits = wanted < most ? wanted : most;
  return splits > 1 ? splits : 1;
}

}  // namespace
}  // namespace paddlemix

extern "C" int64_t paddlemix_cuda_attention_decode_workspace(int64_t batch, int64_t heads, int64_t length,
                                                             int64_t head_dim, int64_t longest_kv) {
  using namespace paddlemix;
  if (batch == 0 || heads == 0) return 0;
  const int64_t splits = count_splits(batch, heads, length, longest_kv);
  if (splits == 1) return 0;
  return batch * heads * length * splits * (head_dim * sizeof(float) + sizeof(float2));
}

extern "C" int paddlemix_cuda_attention_decode(int dtype, const void* query, paddlemix_strides query_strides,
                                               const paddlemix_kv* kv, const paddlemix_visibility* visibility,
                                               float scale, void* out, void* workspace, int64_t longest_kv,
                                               int64_t batch, int64_t heads, int64_t length, int64_t head_dim,
                                               void* stream) {
  using namespace paddlemix;
  if (batch == 0 || heads == 0 || length == 0 || head_dim == 0) return 0;
  if (length > kMostQueries || head_dim > kMostHeadDim || head_dim % kElements != 0) {
    return static_cast<int>(cudaErrorInvalidValue);
  }
  const int64_t splits = count_splits(batch, heads, length, longest_kv), results = batch * heads * length;
  float2* const part_sums = static_cast<float2*>(workspace);
  float* const part_values = reinterpret_cast<float*>(part_sums + results * splits);
  const Problem problem{
      *kv, *visibility, query_strides, scale * kLog2e, static_cast<int>(length), static_cast<int>(head_dim)};
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(heads), static_cast<unsigned>(batch));
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kBytes = sizeof(T);
    const bool aligned =
        aligned16({query, kv->keys, kv->values},
                  {query_strides.batch * kBytes, query_strides.head * kBytes, query_strides.position * kBytes,
                   kv->block_stride * kBytes, kv->head_stride * kBytes, kv->slot_stride * kBytes});
    const auto launch = [&](auto lanes, auto queries, auto is_aligned) {
      PADDLEMIX_LAUNCH(
          (attention_decode_kernel<T, decltype(lanes)::value, decltype(queries)::value, decltype(is_aligned)::value>),
          grid, kThreads, 0, stream, static_cast<const T*>(query), problem, static_cast<T*>(out), part_sums,
          part_values);
    };
    const auto launch_lanes = [&](auto queries, auto is_aligned) {
      if (head_dim <= 16 * kElements) {
        launch(std::integral_constant<int, 16>(), queries, is_aligned);
      } else {
        launch(std::integral_constant<int, 32>(), queries, is_aligned);
      }
    };
    if (!aligned) {
      launch_lanes(std::integral_constant<int, kMostQueries>(), std::false_type());
    } else if (length == 1) {
      launch_lanes(std::integral_constant<int, 1>(), std::true_type());
    } else if (length <= 4) {
      launch_lanes(std::integral_constant<int, 4>(), std::true_type());
    } else {
      launch_lanes(std::integral_constant<int, kMostQueries>(), std::true_type());
    }
    if (splits > 1) {
      PADDLEMIX_LAUNCH((attention_join_kernel<T>), static_cast<unsigned>(results), static_cast<unsigned>(head_dim), 0,
                       stream, part_sums, part_values, static_cast<T*>(out), static_cast<int>(splits));
    }
  });
}
