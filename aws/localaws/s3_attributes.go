package localaws

import (
	"encoding/xml"
	"maps"
	"net/http"
	"slices"
	"strings"
)

const maxObjectTags = 10

// getObjectAttributes answers with those of an object's attributes that were
// asked for.
func (s *s3Service) getObjectAttributes(r *s3Request) error {
	v, err := s.store.lookup(r.bucket, r.key, r.version)
	if err != nil {
		return err
	}
	wanted := strings.Join(r.Header.Values("X-Amz-Object-Attributes"), ",")
	if wanted == "" {
		return s3Refusal("InvalidArgument", http.StatusBadRequest, "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty")
	}
	out := attributesXML{}
	for name := range strings.SplitSeq(wanted, ",") {
		switch strings.TrimSpace(name) {
		case "ETag":
			out.ETag = v.ETag
		case "ObjectSize":
			size := v.Size
			out.ObjectSize = &size
		case "StorageClass":
			out.StorageClass = "STANDARD"
		case "Checksum":
			out.Checksum = v.Checksum.xml()
		case "ObjectParts":
			out.ObjectParts = v.partsXML()
		default:
			return s3Refusal("InvalidArgument", http.StatusBadRequest, "Invalid attribute name specified.")
		}
	}
	h := r.w.Header()
	h.Set("Last-Modified", v.Modified.Format(http.TimeFormat))
	v.tellVersion(h)
	writeXML(r.w, http.StatusOK, out)
	return nil
}

type attributesXML struct {
	XMLName      xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ GetObjectAttributesResponse"`
	ETag         string   `xml:",omitempty"`
	Checksum     *checksumXML
	ObjectParts  *objectPartsXML
	StorageClass string `xml:",omitempty"`
	ObjectSize   *int64 `xml:",omitempty"`
}

type checksumXML struct {
	Values []namedValue
	Type   string `xml:"ChecksumType"`
}

// namedValue is an element with a name of its own.
type namedValue struct {
	XMLName xml.Name
	Value   string `xml:",chardata"`
}

func (c checksum) xml() *checksumXML {
	if c.Value == "" {
		return nil
	}
	return &checksumXML{
		Values: []namedValue{{XMLName: xml.Name{Local: "Checksum" + c.Algorithm}, Value: c.Value}},
		Type:   c.Kind,
	}
}

type objectPartsXML struct {
	TotalPartsCount int `xml:"PartsCount"`
	IsTruncated     bool
	Part            []partXML
}

type partXML struct {
	PartNumber int
	Size       int64
}

func (v *version) partsXML() *objectPartsXML {
	if len(v.Parts) == 0 {
		return nil
	}
	out := &objectPartsXML{TotalPartsCount: len(v.Parts)}
	for i, size := range v.Parts {
		out.Part = append(out.Part, partXML{PartNumber: i + 1, Size: size})
	}
	return out
}

// taggingXML is the body of the tagging operations, both ways.
type taggingXML struct {
	XMLName xml.Name `xml:"Tagging"`
	TagSet  struct {
		Tag []tagXML
	}
}

type tagXML struct {
	Key   string
	Value string
}

// objectTagging reads, replaces or drops an object's tags.
func (s *s3Service) objectTagging(r *s3Request) error {
	if r.Method == http.MethodGet {
		v, err := s.store.lookup(r.bucket, r.key, r.version)
		if err != nil {
			return err
		}
		var out taggingXML
		for _, name := range slices.Sorted(maps.Keys(v.Tags)) {
			out.TagSet.Tag = append(out.TagSet.Tag, tagXML{name, v.Tags[name]})
		}
		v.tellVersion(r.w.Header())
		writeXML(r.w, http.StatusOK, out)
		return nil
	}
	tags := map[string]string{}
	status := http.StatusNoContent
	if r.Method == http.MethodPut {
		status = http.StatusOK
		var in taggingXML
		if err := readXML(r, &in); err != nil {
			return err
		}
		for _, t := range in.TagSet.Tag {
			tags[t.Key] = t.Value
		}
		if len(tags) != len(in.TagSet.Tag) || len(tags) > maxObjectTags {
			return s3Refusal("InvalidTag", http.StatusBadRequest, "Cannot provide multiple Tags with the same key, nor more than %d", maxObjectTags)
		}
	}
	v, err := s.store.setTags(r.bucket, r.key, r.version, tags)
	if err != nil {
		return err
	}
	v.tellVersion(r.w.Header())
	r.w.WriteHeader(status)
	return nil
}
