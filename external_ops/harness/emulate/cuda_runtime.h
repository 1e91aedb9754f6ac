// Stands in for the CUDA header of this name where g++ compiles a kernel for the CPU.
#pragma once

#include "cuda_emulation.h"
