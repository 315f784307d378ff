package bundle

// Default bounds. The archive's size is Elastic Beanstalk's limit for a source bundle.
const (
	DefaultArchiveBytes = 512 << 20
	DefaultBytes        = 4 << 30
	DefaultFiles        = 100_000
	DefaultRatio        = 200
	DefaultDepth        = 64
	DefaultNameBytes    = 255
	DefaultPathBytes    = 2048
)

// ratioFloor is how much a bundle may unpack to before its ratio is looked at: small, very compressible bundles are no bomb.
const ratioFloor = 32 << 20

// Limits bounds what a source bundle may be. A field left zero takes its default.
type Limits struct {
	ArchiveBytes int64 // size of the archive itself, bytes
	Bytes        int64 // content after unpacking, bytes
	Files        int   // files, folders (also those only implied by a path) and links together
	Ratio        int64 // unpacked bytes per archive byte, looked at above 32 MiB
	Depth        int   // components of a path
	NameBytes    int   // one component of a path, bytes
	PathBytes    int   // a whole path, and the target of a link, bytes
}

func (l Limits) orDefaults() Limits {
	l.ArchiveBytes = orDefault(l.ArchiveBytes, DefaultArchiveBytes)
	l.Bytes = orDefault(l.Bytes, DefaultBytes)
	l.Files = orDefault(l.Files, DefaultFiles)
	l.Ratio = orDefault(l.Ratio, DefaultRatio)
	l.Depth = orDefault(l.Depth, DefaultDepth)
	l.NameBytes = orDefault(l.NameBytes, DefaultNameBytes)
	l.PathBytes = orDefault(l.PathBytes, DefaultPathBytes)
	return l
}

func orDefault[T int | int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// bombed says whether n unpacked bytes are too many for an archive of the given size.
func (l Limits) bombed(n, archive int64) bool {
	return n > ratioFloor && n/l.Ratio > archive
}
