# How every target of the project is compiled. One interface target carries it, so that a third party's headers and a
# consumer's own flags stay out of it.

option(TIDEMARK_TESTS "Build the tests" ON)
option(TIDEMARK_WERROR "Treat warnings as errors" OFF)
option(TIDEMARK_FAILPOINTS "Compile in the kill points that the fault tests use; never for production" OFF)
set(TIDEMARK_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread")
option(TIDEMARK_COVERAGE "Instrument for line coverage" OFF)
option(TIDEMARK_FUZZ "Build the libFuzzer targets (clang)" OFF)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

add_library(tidemark_options INTERFACE)
target_include_directories(tidemark_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(tidemark_options INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor
  $<$<BOOL:${TIDEMARK_WERROR}>:-Werror>
  -fstack-protector-strong -fno-omit-frame-pointer)
# Our own assertions stay on in every build: a broken invariant must stop the process, not corrupt a table.
target_compile_definitions(tidemark_options INTERFACE _GLIBCXX_ASSERTIONS)
if(CMAKE_BUILD_TYPE MATCHES "Release|RelWithDebInfo")
  target_compile_options(tidemark_options INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
  string(REPLACE "-DNDEBUG" "" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")
  string(REPLACE "-O3" "-O2" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")
  string(REPLACE "-DNDEBUG" "" CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")
endif()
target_link_options(tidemark_options INTERFACE -pie -Wl,-z,relro,-z,now)
if(TIDEMARK_FAILPOINTS)
  target_compile_definitions(tidemark_options INTERFACE TIDEMARK_FAILPOINTS)
endif()
if(TIDEMARK_SANITIZE)
  target_compile_options(tidemark_options INTERFACE -fsanitize=${TIDEMARK_SANITIZE} -fno-sanitize-recover=all -g)
  target_link_options(tidemark_options INTERFACE -fsanitize=${TIDEMARK_SANITIZE})
endif()
if(TIDEMARK_COVERAGE)
  target_compile_options(tidemark_options INTERFACE --coverage -fprofile-update=atomic)
  target_link_options(tidemark_options INTERFACE --coverage)
endif()
if(TIDEMARK_FUZZ)
  target_compile_options(tidemark_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -g)
  target_link_options(tidemark_options INTERFACE -fsanitize=address,undefined)
endif()

# tidemark_library(NAME sources...): a static library that carries the options above.
function(tidemark_library name)
  add_library(${name} STATIC ${ARGN})
  target_link_libraries(${name} PUBLIC tidemark_options)
endfunction()
