// Kernels with the faults that the emulator must find, and a main that runs the one named by its first argument.
#include <cuda_runtime.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr unsigned kFullWarp = 0xffffffffu;

// Each thread gives its number to the next one through shared memory.
__global__ void pass_on(bool with_barrier, int32_t* out) {
  __shared__ int32_t given[64];
  given[threadIdx.x] = static_cast<int32_t>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = given[(threadIdx.x + 1) % blockDim.x];
}

__global__ void barrier_in_a_branch(int32_t* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_barriers(int32_t* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void lanes_missing(int32_t* out) {
  if (threadIdx.x % 32 < 31) out[threadIdx.x] = __ballot_sync(kFullWarp, true) != 0;
  __syncthreads();
}

__global__ void source_has_returned(int32_t* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __shfl_xor_sync(kFullWarp, 7, 1);
}

__global__ void not_in_its_own_mask(int32_t* out) { out[threadIdx.x] = __shfl_xor_sync(0xfu, 7, 1); }

__global__ void count_without_atomics(int32_t* out) {
  const int32_t before = out[0];
  out[0] = before + 1;
}

__global__ void count_with_atomics(int32_t* out) { atomicAdd(&out[0], 1); }

__global__ void waits_for_nobody(int32_t* out) {
  while (atomicCAS(&out[0], 0, 0) == 0) {
  }
}

__global__ void reads_fresh_memory(int32_t* out) {
  __shared__ int32_t sum;
  extern __shared__ int32_t more[];
  if (threadIdx.x == 0) out[blockIdx.x] = sum != 0 && more[1] != 0;
}

__global__ void beyond_shared_memory(int32_t* out) {
  __shared__ int32_t first[8];
  __shared__ int32_t second;
  int32_t* slots = first;
  second = 5;
  slots[threadIdx.x % 10] = 7;
  out[0] = second;
}

__global__ void too_much_shared_memory(int32_t* out) {
  __shared__ int32_t table[12289];
  table[0] = out[0];
}

__global__ void exchanges(int32_t* out) {
  const unsigned lane = threadIdx.x % 32;
  int32_t sum = static_cast<int32_t>(threadIdx.x);
  for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(kFullWarp, sum, half);
  if (lane >= 16) out[threadIdx.x] = sum + __popc(__ballot_sync(0xffff0000u, lane % 3 == 0));
  if (lane < 16) out[threadIdx.x] = sum + __ffs(static_cast<int>(__ballot_sync(0xffffu, lane == 9)));
}

void run(const std::string& name, std::vector<int32_t>& out) {
  int32_t* result = out.data();
  if (name == "pass_on") pass_on<<<4, 64, 0, nullptr>>>(true, result);
  if (name == "race") pass_on<<<4, 64, 0, nullptr>>>(false, result);
  if (name == "barrier_in_a_branch") barrier_in_a_branch<<<1, 64, 0, nullptr>>>(result);
  if (name == "two_barriers") two_barriers<<<1, 64, 0, nullptr>>>(result);
  if (name == "lanes_missing") lanes_missing<<<1, 64, 0, nullptr>>>(result);
  if (name == "source_has_returned") source_has_returned<<<1, 32, 0, nullptr>>>(result);
  if (name == "not_in_its_own_mask") not_in_its_own_mask<<<1, 32, 0, nullptr>>>(result);
  if (name == "count_without_atomics") count_without_atomics<<<8, 32, 0, nullptr>>>(result);
  if (name == "count_with_atomics") count_with_atomics<<<8, 32, 0, nullptr>>>(result);
  if (name == "waits_for_nobody") waits_for_nobody<<<2, 32, 0, nullptr>>>(result);
  if (name == "reads_fresh_memory") reads_fresh_memory<<<256, 32, 16, nullptr>>>(result);
  if (name == "beyond_shared_memory") beyond_shared_memory<<<1, 32, 0, nullptr>>>(result);
  if (name == "too_much_shared_memory") too_much_shared_memory<<<1, 32, 0, nullptr>>>(result);
  if (name == "exchanges") exchanges<<<1, 64, 0, nullptr>>>(result);
  if (name == "too_many_threads") count_with_atomics<<<1, 1025, 0, nullptr>>>(result);
  if (name == "shared_memory_not_asked_for") reads_fresh_memory<<<1, 32, 50 << 10, nullptr>>>(result);
}

}  // namespace

int main(int, char** arguments) {
  std::vector<int32_t> out(256);
  try {
    run(arguments[1], out);
  } catch (const std::runtime_error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  for (const int32_t value : out) std::printf("%d ", value);
  return 0;
}
