#pragma once

#include "schemas/result.h"

#include <string>

namespace tidemark::schemas {

/// "<pointer>: <detail>" per violation, one a line, so that a failing check prints what was found.
inline std::string listing(const Violations& violations) {
    std::string out;
    for (const auto& [pointer, detail] : violations) {
        out.append(out.empty() ? "" : "\n").append(pointer).append(": ").append(detail);
    }
    return out;
}

template <typename T>
std::string listing(const Result<T>& result) {
    return result.ok() ? "" : listing(result.violations());
}

}  // namespace tidemark::schemas
