#pragma once

#include "schemas/imported_line.h"

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tidemark::consumers {

/// Decides which records of a batch repeat an imported line. Lines come in any order, for one may be given back to the
/// importer and stored behind its followers, and they come again at any later time; so what has come is kept exactly,
/// a bit for each line, in blocks. Those of the batch are expected, loaded, then every record is asked about in offset
/// order. Pure.
class Imports {
public:
    /// One row: 1 KiB at most stays in the table's page, and a flush rewrites no more than that for a few lines.
    static constexpr std::int64_t kLinesOfBlock = 8'192;

    struct Block {
        std::int32_t partition = 0;
        std::string file;
        std::int64_t number = 0;  ///< of its first line, less one, divided by kLinesOfBlock

        friend auto operator<=>(const Block&, const Block&) = default;
    };
    /// A bit for each line, the lowest of the first byte being the first, without the zero bytes behind the last one.
    struct Lines {
        std::string bits;
        bool changed = false;
    };
    using Blocks = std::map<Block, Lines>;

    /// It will be asked about.
    void expect(std::int32_t partition, const schemas::ImportedLine& line) { at(partition, line); }
    [[nodiscard]] bool empty() const noexcept { return blocks_.empty(); }
    [[nodiscard]] const Blocks& blocks() const noexcept { return blocks_; }
    /// What the tables hold of an expected block.
    void loaded(const Block& block, std::string bits) { blocks_.at(block).bits = std::move(bits); }

    /// False when it has come to this partition before; from now on it has.
    bool come(std::int32_t partition, const schemas::ImportedLine& line);

private:
    Lines& at(std::int32_t partition, const schemas::ImportedLine& line);

    Blocks blocks_;
    Blocks::iterator last_ = blocks_.end();  // an import's lines come together
};

}  // namespace tidemark::consumers
