package ec2test

import (
	"maps"
	"strconv"
)

// match implements EC2's wildcards: * and ?, escaped by \.
func (f filter) match(have []string) bool {
	for _, p := range f.values {
		for _, h := range have {
			if wild(p, h) {
				return true
			}
		}
	}
	return false
}

func wild(p, s string) bool {
	for p != "" {
		switch {
		case p[0] == '*':
			for i := 0; i <= len(s); i++ {
				if wild(p[1:], s[i:]) {
					return true
				}
			}
			return false
		case s == "":
			return false
		case p[0] == '\\' && len(p) > 1:
			p = p[1:]
			if p[0] != s[0] {
				return false
			}
		case p[0] != '?' && p[0] != s[0]:
			return false
		}
		p, s = p[1:], s[1:]
	}
	return s == ""
}

func (s *Server) retag(q *request, change func(tags map[string]string)) ([]part, error) {
	ids := q.list("ResourceId")
	for _, id := range ids {
		if v := s.volumes[id]; v != nil && !v.gone {
			continue
		}
		if s.snapshots[id] == nil {
			return nil, fail("InvalidID", "The ID '%s' is not valid", id)
		}
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if v := s.volumes[id]; v != nil {
			change(v.tags)
			s.show(v, q.now)
		} else {
			change(s.snapshots[id].tags)
		}
	}
	return done(), nil
}

func (s *Server) createTags(q *request) ([]part, error) {
	add := map[string]string{}
	q.tagList("Tag", add)
	return s.retag(q, func(tags map[string]string) { maps.Copy(tags, add) })
}

func (s *Server) deleteTags(q *request) ([]part, error) {
	var keys []string
	for i := 1; q.has("Tag." + strconv.Itoa(i) + ".Key"); i++ {
		keys = append(keys, q.p.Get("Tag."+strconv.Itoa(i)+".Key"))
	}
	return s.retag(q, func(tags map[string]string) {
		for _, k := range keys {
			delete(tags, k)
		}
	})
}
