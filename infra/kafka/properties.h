#pragma once

#include <map>
#include <string>

namespace tidemark::kafka {

/// Reads client settings the way Kafka's own tools take them: a file of `name=value` lines, `#` comments, blank lines.
/// For TLS, SASL and whatever else a cluster asks for; names are librdkafka's. An empty path gives none. It holds
/// secrets, so a file that everybody may read is refused. Throws std::runtime_error that names the file and the line.
std::map<std::string, std::string> read_properties(const std::string& path);

}  // namespace tidemark::kafka
