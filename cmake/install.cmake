# SPDX-License-Identifier: Apache-2.0
# What `cmake --install` copies: the program, the libraries, their headers, and a package file so that
# find_package(foretoken) gives foretoken::actors (the engine) and the folders below it.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(foretoken_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/foretoken)
get_property(foretoken_libraries GLOBAL PROPERTY foretoken_folders)
# The program's own wiring is no library for others.
list(REMOVE_ITEM foretoken_libraries config tools)
set(foretoken_install_targets ${foretoken_libraries})
list(TRANSFORM foretoken_install_targets PREPEND foretoken_)

# Headers include each other from the root ("base/ids.hpp"), so the folder is on the path as well.
target_include_directories(foretoken_flags INTERFACE
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/foretoken>)
set_target_properties(foretoken_flags PROPERTIES EXPORT_NAME flags)

install(TARGETS foretoken_flags ${foretoken_install_targets} EXPORT foretoken_targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT foretoken_targets NAMESPACE foretoken:: DESTINATION ${foretoken_package_dir})
foreach(folder IN LISTS foretoken_libraries)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/foretoken
    FILES_MATCHING PATTERN "*.hpp")
endforeach()

write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/foretokenConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
file(GLOB foretoken_find_modules ${PROJECT_SOURCE_DIR}/cmake/Find*.cmake)
install(FILES ${PROJECT_SOURCE_DIR}/cmake/foretokenConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/foretokenConfigVersion.cmake ${foretoken_find_modules}
  DESTINATION ${foretoken_package_dir})

if(TARGET foretoken_program)
  install(TARGETS foretoken_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES ${PROJECT_SOURCE_DIR}/foretoken.toml DESTINATION ${CMAKE_INSTALL_DATADIR}/foretoken)
