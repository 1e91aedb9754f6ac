// The activation, for operators that compute what it is applied to as well.
#pragma once

#include "common.h"

namespace paddlemix_ops {
namespace swiglu {

// silu(gate) * up, of one shape and dtype.
std::vector<Tensor> forward(const Tensor& gate, const Tensor& up);

}  // namespace swiglu
}  // namespace paddlemix_ops
