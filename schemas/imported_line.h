#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::schemas {

/// Which line of which file an imported record was: the value of its header `import`, "<file>:<number>". Records of one
/// such value are one, for ever and in any order; the fold counts the first of them in each partition.
struct ImportedLine {
    static constexpr const char* kHeader = "import";

    std::string_view file;    ///< base64url of the first 16 bytes of a SHA-256: 22 characters
    std::int64_t number = 0;  ///< from 1
};

/// Nullopt when it is anything else, also a number written in another way: that is some header of a foreign producer.
std::optional<ImportedLine> read_imported_line(std::string_view header);
/// As read_imported_line takes it.
void append_imported_line(std::string& out, const ImportedLine& line);

}  // namespace tidemark::schemas
