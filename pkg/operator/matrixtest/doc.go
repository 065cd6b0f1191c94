// Package matrixtest holds tests alone: what a tenant, a node or a pod of Sealvol tries against the API server, and which rule refuses it.
//
// The API server is the real one, with the authorizers Node and RBAC, the admission plugin NodeRestriction, and the roles and policies of the chart, for both
// backends. Each attempt names its rule: a policy of the chart, or RBAC, the node authorizer, NodeRestriction, or the validation of a definition. Most have a
// control beside them, the same request as it is meant, which is allowed: so that no attempt is refused because of an error in it. That the policy has looked
// at the control, a copy of it tells, which warns of all that it sees (world.shadow).
//
// docs/threat-model.md lists the attempts; TestDocument compares, and writes it with -update.
package matrixtest
