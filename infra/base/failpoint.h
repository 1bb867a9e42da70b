#pragma once

/// A named place at which the fault tests make the process die, stop or stall. Builds without TIDEMARK_FAILPOINTS carry
/// nothing of it. The plan comes from the environment, read once:
/// TIDEMARK_FAILPOINT="<name>=<kill|stop|term|throw|sleep:ms>[@n]", several separated by ';': on the n-th pass (default
/// 1) the process sends itself SIGKILL, SIGSTOP or SIGTERM, throws std::runtime_error, or sleeps. With
/// TIDEMARK_FAILPOINT_FILE=<path> the plan is read from that file, which is looked at again when its modification time
/// changes; and each pass that fired appends a line "<name>" to <path>.fired *before* it acts, so that a test sees that
/// the fault happened.
#ifdef TIDEMARK_FAILPOINTS
namespace tidemark::base {
void failpoint(const char* name);
}
#define FAILPOINT(name) ::tidemark::base::failpoint(name)
#else
#define FAILPOINT(name) static_cast<void>(0)
#endif
