#pragma once

namespace tidemark::base {

/// What every command ends with.
enum ExitCode : int {
    kDone = 0,      ///< done; equal, clean, caught up
    kFailed = 1,    ///< failed, or differing
    kWrongUse = 2,  ///< unknown or impossible settings
    kRefused = 3,   ///< a guard said no
};

}  // namespace tidemark::base
