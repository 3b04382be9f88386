#pragma once

#include <asio/io_context.hpp>
#include <string>
#include <vector>

namespace feather {

// Memory after bursts: idle means idle. What a large config.json, many execs or many connections
// have cost goes back to the kernel a moment after they are over.

// glibc's cache of freed blocks pins the pages that they lie in, and can be turned off from outside
// only. Adds to the environment of a process what does so; and takes it out of this process' own,
// so that no child gets it.
void AddServerTunables(std::vector<std::string>& environment);
void DropServerTunables();

// At the start of the process: one heap, whose free end is given back at once.
void LimitHeap();

// Runs the loop until somebody stops it, and trims when TrimSoon has asked for it. Exceptions of
// handlers come out of it; it may be called again then.
void RunAndTrim(asio::io_context& io);

// Something has ended that may have held much. Cheap enough for each RPC; nothing happens in a loop
// that RunAndTrim does not run.
void TrimSoon(asio::io_context& io);

}  // namespace feather
