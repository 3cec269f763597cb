# SPDX-License-Identifier: Apache-2.0
# The language of device code, for every folder below: included at the top, because CMake knows a language
# only where it was enabled and below.
#
# sm_80 runs on all of compute capability 8; 9.0 and 10.0 have their own code; the PTX of 10.0 is
# compiled by the driver for what comes later.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100)
endif()
if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
# Keeps what ptxas says beside each object, for scripts/check_kernels.py.
set(CMAKE_CUDA_COMPILER_LAUNCHER ${PROJECT_SOURCE_DIR}/scripts/keep_ptxas ${CCACHE})
