#include "consumers/imports.h"

#include <cstddef>

namespace tidemark::consumers {

Imports::Lines& Imports::at(std::int32_t partition, const schemas::ImportedLine& line) {
    const auto number = (line.number - 1) / kLinesOfBlock;
    if (last_ == blocks_.end() || last_->first.partition != partition || last_->first.number != number ||
        last_->first.file != line.file) {
        last_ = blocks_.try_emplace({partition, std::string(line.file), number}).first;
    }
    return last_->second;
}

bool Imports::come(std::int32_t partition, const schemas::ImportedLine& line) {
    auto& lines = at(partition, line);
    const auto place = static_cast<std::size_t>((line.number - 1) % kLinesOfBlock);
    const auto bit = static_cast<unsigned char>(1U << (place % 8));
    if (lines.bits.size() <= place / 8) lines.bits.resize(place / 8 + 1);
    auto& byte = lines.bits[place / 8];
    if ((static_cast<unsigned char>(byte) & bit) != 0) return false;
    byte = static_cast<char>(static_cast<unsigned char>(byte) | bit);
    lines.changed = true;
    return true;
}

}  // namespace tidemark::consumers
