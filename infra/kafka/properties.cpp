#include "infra/kafka/properties.h"

#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace tidemark::kafka {

namespace {

std::string trimmed(const std::string& text) {
    constexpr auto kSpace = " \t\r";
    const auto begin = text.find_first_not_of(kSpace);
    if (begin == std::string::npos) return {};
    return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

}  // namespace

std::map<std::string, std::string> read_properties(const std::string& path) {
    std::map<std::string, std::string> properties;
    if (path.empty()) return properties;
    std::ifstream file(path);
    if (!file) {
        throw std::runtime_error(path + ": " + std::generic_category().message(errno) +
                                 "; check the path that --kafka-config names");
    }
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0)
        throw std::runtime_error(path + ": " + std::generic_category().message(errno));
    if ((status.st_mode & S_IROTH) != 0) {
        throw std::runtime_error(path + ": everybody may read it, and it may hold secrets; try chmod 600 " + path);
    }
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
        line = trimmed(line);
        if (line.empty() || line.front() == '#') continue;
        const auto equals = line.find('=');
        const auto name = equals == std::string::npos ? std::string() : trimmed(line.substr(0, equals));
        if (name.empty()) throw std::runtime_error(path + ", line " + std::to_string(number) + ": is not name=value");
        if (!properties.emplace(name, trimmed(line.substr(equals + 1))).second) {
            throw std::runtime_error(path + ", line " + std::to_string(number) + ": " + name + " stands there twice");
        }
    }
    return properties;
}

}  // namespace tidemark::kafka
