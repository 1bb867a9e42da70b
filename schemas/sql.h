#pragma once

#include <string_view>

namespace tidemark::schemas {

/// The text of schemas/sql/<name>.sql, built into the program. Throws std::out_of_range for a name that is no such
/// file.
std::string_view sql(std::string_view name);

}  // namespace tidemark::schemas
