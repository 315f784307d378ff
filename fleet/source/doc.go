// Package source makes the source bundle on the operator's side: it packs a folder into a zip, or takes a given archive as it is, and looks into a
// bundle's .ebextensions for what must be judged before anything is sent.
//
// It knows nothing of S3, queues, instances or how a bundle is unpacked.
//
// Invariants:
//   - One tree gives one zip, byte for byte, wherever and whenever it is packed: sorted paths, fixed times, modes as git keeps them (0644, 0755).
//   - The destination is written whole or not at all.
//   - What is read from an archive or an ignore file is bounded.
//
// Which files go in: with a .ebignore in the folder's root that file alone decides (gitignore syntax; git and every .gitignore are ignored). Without one
// the .gitignore files inside the folder decide, nested ones too. Unlike `eb deploy`, which then ships `git archive HEAD`, uncommitted files are
// included: what is in the folder is what is deployed. Rules outside the folder (a parent's .gitignore, .git/info/exclude, the user's own) do not
// count, so that a build output which its repository ignores can be deployed. Never packed: .git at any depth and .elasticbeanstalk at the root.
package source
