# SPDX-License-Identifier: Apache-2.0
# wslay::wslay. Debian ships neither a package file nor a .pc.
find_path(wslay_INCLUDE_DIR NAMES wslay/wslay.h)
find_library(wslay_LIBRARY NAMES wslay)
mark_as_advanced(wslay_INCLUDE_DIR wslay_LIBRARY)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(wslay REQUIRED_VARS wslay_LIBRARY wslay_INCLUDE_DIR)
if(wslay_FOUND AND NOT TARGET wslay::wslay)
  add_library(wslay::wslay UNKNOWN IMPORTED)
  set_target_properties(wslay::wslay PROPERTIES IMPORTED_LOCATION ${wslay_LIBRARY})
  # A system directory must not be passed on: it breaks the order of the C headers.
  if(NOT wslay_INCLUDE_DIR IN_LIST CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES)
    set_target_properties(wslay::wslay PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${wslay_INCLUDE_DIR})
  endif()
endif()
