#include "infra/base/version.h"

#include <doctest/doctest.h>

#include <cctype>
#include <string>

namespace base = tidemark::base;

TEST_CASE("the version is three numbers, the commit twelve digits or unknown, the build time an instant in UTC") {
    const auto shape = [](std::string_view text) {
        std::string pattern;
        for (const char c : text)
            pattern += std::isdigit(static_cast<unsigned char>(c)) ? '9' : c;
        return pattern;
    };
    CHECK(shape(base::version()) == "9.9.9");
    CHECK((base::commit() == "unknown" || base::commit().size() == 12));
    CHECK(shape(base::built()) == "9999-99-99T99:99:99Z");
}
