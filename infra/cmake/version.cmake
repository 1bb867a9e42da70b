# The version and commit that `--version` and /version report. The commit may be given (images are built without .git).

set(TIDEMARK_COMMIT "" CACHE STRING "Commit this build was made from; read from git when empty")
if(NOT TIDEMARK_COMMIT)
  execute_process(COMMAND git -C ${CMAKE_SOURCE_DIR} rev-parse --short=12 HEAD
    OUTPUT_VARIABLE TIDEMARK_COMMIT_READ OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
else()
  set(TIDEMARK_COMMIT_READ ${TIDEMARK_COMMIT})
endif()
if(NOT TIDEMARK_COMMIT_READ)
  set(TIDEMARK_COMMIT_READ unknown)
endif()
