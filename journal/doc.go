// Package journal is the durable record of the commands an instance accepted, of the steps each took and of its result. What is in it survives
// kill -9 and power loss; from the accepted record on it, and no longer the queue, owns a command.
//
// It knows neither what a step does nor what a message means: payloads are JSON it stores and gives back. It never touches anything but its own
// files: the journal, journal.lock, and what it sets aside beside them.
//
// # The file
//
//	header   16 bytes    "HMJOURNAL 00001\n"   magic, format version in decimal: head -c16 reads it
//	frame    8 + n bytes, repeated to the end
//	  length   uint32 little endian   n, from 1 to MaxRecord
//	  crc      uint32 little endian   CRC-32C (Castagnoli) of the four length bytes and the payload
//	  payload  n bytes                one JSON object
//
// The first record says whose journal it is, all others are a Record:
//
//	{"type":"journal","instance":"i-0a1b","time":T}
//	{"type":"accepted","command":ID,"time":T,"payload":MESSAGE}
//	{"type":"started","command":ID,"time":T,"step":"appdeploy/pre/03build","semantics":"compensated","payload":SAVED}
//	{"type":"done","command":ID,"time":T,"step":"appdeploy/pre/03build","events":[REPORTED]}
//	{"type":"undone","command":ID,"time":T,"step":"appdeploy/pre/03build"}
//	{"type":"resumed","command":ID,"time":T}
//	{"type":"paused","command":ID,"time":T}
//	{"type":"abort","command":ID,"time":T,"payload":WHO}
//	{"type":"verdict","command":ID,"time":T,"payload":FAILURE}
//	{"type":"result","command":ID,"time":T,"payload":RESULT}
//	{"type":"sent","command":ID,"time":T}
//	{"type":"lost","command":ID,"time":T}
//
// A newer format may add record types and members; framing and header stay. Whatever this version does not know it keeps, byte for byte, so an
// older agent can run on a newer agent's journal and hand it back.
//
// # Invariants
//
//   - A record is in the file, whole and synced, before Append returns nil. One Append is one write and one fdatasync.
//   - After a write or sync that failed nothing is appended any more: what the file holds is unknown until it is opened again. Only a write
//     that found no room is no such failure: what it left is cut off, nothing was synced, and the record can be appended again.
//   - An unfinished frame at the end (a crash in a write) is cut at Open, with an event. Damage anywhere else sets the file aside as
//     journal.quarantine-<time>, with an event; a new one keeps what is still readable, and every command without a known result is marked
//     Lost and stripped of its steps: nobody may undo a step on half a record of it.
//   - What sent commands hold is bounded, in memory and, after compaction, in the file. Beyond that bound all that is remembered of one is that it
//     was, for 14 days: a duplicate is known, and a thousand commands take some 50 KB of memory.
//   - A journal of another instance id (a cloned disk) is set aside whole as journal.instance-<id>-<time>.
//   - The name journal always is a complete file: creation, compaction and quarantine write beside it, sync, and rename.
package journal
