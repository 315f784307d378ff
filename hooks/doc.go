// Package hooks runs hook directories: the executable files on disk and the platform's built-in hooks as one list in name order.
//
// It knows neither which commands there are nor what a hook is for. It sees no queue, no store, no container engine: built-in hooks bring what
// they need. State between hooks lives in files and in the engine, never here.
//
// # The order
//
// Files and built-in hooks of a directory are sorted together by the bytes of their names, and listed before the first of them runs. A built-in
// hook has no extension, so it stands before every file that only adds one: 01flip, 01flip.sh, 01flip2, 02next. Such a file (01flip or 01flip.sh)
// is taken for the hook itself: where Replaceable names it ("appdeploy/enact/01flip") it runs in its stead and at its own place, with a WARN
// event; elsewhere it is an error and nothing of the directory runs.
//
// Skipped in silence: folders, names that begin with "." or end in .bak or .tmp, and files without an exec bit; the last with a WARN event where
// they begin with #!, since a forgotten chmod +x is the likelier reason.
//
// # What a crash means for a file
//
// An executable file runs once: a crash in the middle of it fails its command. One that can safely run again says so in a comment of its own
// among its first ten lines:
//
//	# hostmanager: repeatable
//
// What a file leaves running when it ends is ended too. One that starts a daemon on purpose says so there: "# hostmanager: detach", or both,
// "# hostmanager: repeatable, detach: true"; then it stays, if the file ended well. The comment may begin with #, //, --, ; or %.
//
// # What a file is given
//
// Working directory: the root folder ("/"). Standard input: /dev/null. Environment: Call.Env, PATH, HOME and LANG where that sets none,
// EB_COMMAND_DEADLINE (epoch milliseconds, from the context) and EB_EVENT_FILE; nothing of the agent's own, and nothing that decides what the loader
// or the shell does before the file's first line (LD_*, BASH_ENV ...). Into that file a hook may append events, YAML or JSON documents
// each followed by a line "---", with msg, severity (INFO when absent) and timestamp (seconds or milliseconds; now when absent):
//
//	{"msg": "Migrated 3 tables.", "severity": "INFO", "timestamp": 1763726400}
//	---
//
// It is read after each hook; what is no event is told in a WARN event and fails nothing. The file is the directory run's own and removed with
// it.
//
// # Invariants
//
//   - Every hook is journalled as started before its first effect and as done after its last; its step is "<dir>/<name>".
//   - The first failure ends the directory; its error is an *Error.
//   - Nothing is undone here unasked: Undo takes back one step when it is told to.
package hooks
