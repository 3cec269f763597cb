# SPDX-License-Identifier: Apache-2.0
# The C++ Actor Framework: targets CAF::core and, when asked for, CAF::io and CAF::openssl.
# A CAF that installs its own package file is used as it is; Debian's does not, so headers and
# libraries are looked for here. CAF_DIR or CAF_ROOT name another installation (a sanitized build).

find_package(CAF CONFIG QUIET)
if(TARGET CAF::core)
  set(CAF_FOUND TRUE)
  return()
endif()

find_path(CAF_INCLUDE_DIR NAMES caf/all.hpp)
find_library(CAF_CORE_LIBRARY NAMES caf_core)
mark_as_advanced(CAF_INCLUDE_DIR CAF_CORE_LIBRARY)

if(CAF_INCLUDE_DIR)
  # "#define CAF_VERSION 1706" means 0.17.6; parts are two digits each.
  file(STRINGS ${CAF_INCLUDE_DIR}/caf/config.hpp caf_version_line REGEX "^#define CAF_VERSION [0-9]+")
  string(REGEX MATCH "[0-9]+$" caf_version_number "${caf_version_line}")
  if(caf_version_number)
    math(EXPR caf_major "${caf_version_number} / 10000")
    math(EXPR caf_minor "${caf_version_number} / 100 % 100")
    math(EXPR caf_patch "${caf_version_number} % 100")
    set(CAF_VERSION ${caf_major}.${caf_minor}.${caf_patch})
  endif()
endif()

# A system directory must not be passed on: -isystem /usr/include breaks the order of the C headers.
function(foretoken_caf_target component library)
  add_library(CAF::${component} UNKNOWN IMPORTED)
  set_target_properties(CAF::${component} PROPERTIES IMPORTED_LOCATION ${library})
  if(NOT CAF_INCLUDE_DIR IN_LIST CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES)
    set_target_properties(CAF::${component} PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES ${CAF_INCLUDE_DIR})
  endif()
endfunction()

set(caf_required CAF_CORE_LIBRARY CAF_INCLUDE_DIR)
foreach(component IN LISTS CAF_FIND_COMPONENTS)
  if(NOT component STREQUAL "core")
    string(TOUPPER ${component} caf_upper)
    find_library(CAF_${caf_upper}_LIBRARY NAMES caf_${component})
    mark_as_advanced(CAF_${caf_upper}_LIBRARY)
    if(CAF_${caf_upper}_LIBRARY)
      set(CAF_${component}_FOUND TRUE)
    endif()
  elseif(CAF_CORE_LIBRARY)
    set(CAF_core_FOUND TRUE)
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CAF REQUIRED_VARS ${caf_required} VERSION_VAR CAF_VERSION
  HANDLE_COMPONENTS)

if(CAF_FOUND)
  find_package(Threads REQUIRED)
  foretoken_caf_target(core ${CAF_CORE_LIBRARY})
  target_link_libraries(CAF::core INTERFACE Threads::Threads)
  foreach(component IN LISTS CAF_FIND_COMPONENTS)
    if(NOT component STREQUAL "core" AND CAF_${component}_FOUND)
      string(TOUPPER ${component} caf_upper)
      foretoken_caf_target(${component} ${CAF_${caf_upper}_LIBRARY})
      target_link_libraries(CAF::${component} INTERFACE CAF::core)
    endif()
  endforeach()
endif()
