# SPDX-License-Identifier: Apache-2.0
# The device library: all device code, the CUDA runtime linked in, two visible symbols. The program
# opens it on demand (gpu/devices.cpp) and is the same program without it.

# -std by hand: this CMake does not know the compiler's dialects. -fmad=false: a fused multiply-add is
# written where it is meant (gpu/numerics.cuh).
set(gpu_device_flags -std=c++20 --expt-relaxed-constexpr -fmad=false
  -Xptxas=-v,-warn-spills,-warn-lmem-usage -Xcompiler=-Wall)

# Clusters of 16 blocks: compute capability 9 alone, whatever else the library is compiled for.
add_library(foretoken_gpu_cluster OBJECT cluster_step.cu)
set_target_properties(foretoken_gpu_cluster PROPERTIES
  CUDA_ARCHITECTURES 90a-real POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden)
target_compile_options(foretoken_gpu_cluster PRIVATE ${gpu_device_flags})
target_include_directories(foretoken_gpu_cluster PRIVATE ${PROJECT_SOURCE_DIR})

add_library(foretoken_gpu_library SHARED
  ${gpu_kernel_sources} ${gpu_host_sources} runtime_cuda.cpp entry.cpp
  $<TARGET_OBJECTS:foretoken_gpu_cluster>)
set_target_properties(foretoken_gpu_library PROPERTIES
  OUTPUT_NAME foretoken_gpu
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib
  CXX_STANDARD 20
  CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
  POSITION_INDEPENDENT_CODE ON)
target_compile_options(foretoken_gpu_library PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:${gpu_device_flags}>"
  "$<$<COMPILE_LANGUAGE:CXX>:${foretoken_own_flags}>")
target_compile_definitions(foretoken_gpu_library PRIVATE FORETOKEN_VERSION="${PROJECT_VERSION}")
target_include_directories(foretoken_gpu_library PRIVATE ${PROJECT_SOURCE_DIR})
target_include_directories(foretoken_gpu_library SYSTEM PRIVATE
  ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
# Files, not targets: their flags are for another language.
foreach(below model base)
  add_dependencies(foretoken_gpu_library foretoken_${below})
  target_link_libraries(foretoken_gpu_library PRIVATE $<TARGET_FILE:foretoken_${below}>)
endforeach()
target_link_options(foretoken_gpu_library PRIVATE
  -Wl,--no-undefined -Wl,--as-needed -Wl,--exclude-libs,ALL -Wl,--gc-sections)
install(TARGETS foretoken_gpu_library LIBRARY DESTINATION lib)

if(FORETOKEN_TESTS)
  add_test(NAME kernel_registers COMMAND ${PROJECT_SOURCE_DIR}/scripts/check_kernels.py
    $<TARGET_OBJECTS:foretoken_gpu_library> $<TARGET_OBJECTS:foretoken_gpu_cluster>
    COMMAND_EXPAND_LISTS)
  set_tests_properties(kernel_registers PROPERTIES LABELS gpu)
endif()
