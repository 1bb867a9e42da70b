#include "infra/base/version.h"

namespace tidemark::base {

std::string_view version() noexcept {
    return TIDEMARK_VERSION;
}

std::string_view commit() noexcept {
    return TIDEMARK_COMMIT;
}

std::string_view built() noexcept {
    return TIDEMARK_BUILT;
}

}  // namespace tidemark::base
