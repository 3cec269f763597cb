# SPDX-License-Identifier: Apache-2.0
# Build rules shared by every folder: one flags target, one library a folder, one test program a folder.

add_library(foretoken_flags INTERFACE)
target_compile_features(foretoken_flags INTERFACE cxx_std_20)
target_include_directories(foretoken_flags INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
# -Wno-restrict: gcc 12 reports it falsely for "literal" + std::string (its bug 105329).
# -ffp-contract=off: the compiler must not fuse a*b+c on its own; kernels that want FMA say so.
# Our rules for our own files; programs that use the installed library choose theirs.
set(foretoken_own_flags
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast -Wnon-virtual-dtor -Wno-restrict
  -fno-omit-frame-pointer -ffp-contract=off)
if(FORETOKEN_WERROR)
  list(APPEND foretoken_own_flags -Werror)
endif()
target_compile_options(foretoken_flags INTERFACE "$<BUILD_INTERFACE:${foretoken_own_flags}>")
if(FORETOKEN_SANITIZE STREQUAL "address")
  # Our own code ends at its first fault; code that uses the installed library may choose.
  set(foretoken_sanitize_flags -fsanitize=address,undefined
    $<BUILD_INTERFACE:-fno-sanitize-recover=all>)
elseif(FORETOKEN_SANITIZE STREQUAL "thread")
  set(foretoken_sanitize_flags -fsanitize=thread)
elseif(FORETOKEN_SANITIZE)
  message(FATAL_ERROR "FORETOKEN_SANITIZE=${FORETOKEN_SANITIZE}: use address or thread")
endif()
target_compile_options(foretoken_flags INTERFACE ${foretoken_sanitize_flags})
target_link_options(foretoken_flags INTERFACE ${foretoken_sanitize_flags})
target_compile_definitions(foretoken_flags INTERFACE
  FORETOKEN_VERSION="${PROJECT_VERSION}"
  $<BUILD_INTERFACE:$<$<NOT:$<CONFIG:Release>>:_GLIBCXX_ASSERTIONS>>)

find_package(Threads REQUIRED)
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# foretoken_library(name SOURCES a.cpp ... [DEPENDS folder ...] [LIBRARIES imported ...])
# DEPENDS are our folders (public); LIBRARIES are third-party and stay private to the folder.
function(foretoken_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS;LIBRARIES" ${ARGN})
  add_library(foretoken_${name} STATIC ${arg_SOURCES})
  add_library(foretoken::${name} ALIAS foretoken_${name})
  set_target_properties(foretoken_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  list(TRANSFORM arg_DEPENDS PREPEND foretoken::)
  target_link_libraries(foretoken_${name} PUBLIC foretoken_flags ${arg_DEPENDS} PRIVATE ${arg_LIBRARIES})
  set_property(GLOBAL APPEND PROPERTY foretoken_folders ${name})
endfunction()

# foretoken_test(folder SOURCES x_test.cpp ... DEPENDS folder ... [LIBRARIES ...] [LABELS ...])
# One doctest program; each test sees FORETOKEN_TEST_DATA. Label = folder.
function(foretoken_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPENDS;LIBRARIES;LABELS" ${ARGN})
  add_executable(${name}_test ${arg_SOURCES} ${PROJECT_SOURCE_DIR}/tests/doctest_main.cpp)
  list(TRANSFORM arg_DEPENDS PREPEND foretoken::)
  target_link_libraries(${name}_test PRIVATE foretoken_flags ${arg_DEPENDS} doctest::doctest ${arg_LIBRARIES})
  target_compile_definitions(${name}_test PRIVATE
    FORETOKEN_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data"
    DOCTEST_CONFIG_SUPER_FAST_ASSERTS)
  add_test(NAME ${name} COMMAND ${name}_test)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${name};${arg_LABELS}" TIMEOUT ${arg_TIMEOUT}
    SKIP_RETURN_CODE 77)
endfunction()
