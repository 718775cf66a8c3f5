from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TraversalPolicyData(_message.Message):
    __slots__ = ("dims", "traversal_axis")
    DIMS_FIELD_NUMBER: _ClassVar[int]
    TRAVERSAL_AXIS_FIELD_NUMBER: _ClassVar[int]
    dims: _containers.RepeatedScalarFieldContainer[int]
    traversal_axis: int
    def __init__(self, dims: _Optional[_Iterable[int]] = ..., traversal_axis: _Optional[int] = ...) -> None: ...

class CollectionData(_message.Message):
    __slots__ = ("traversal_policy", "data", "data_32")
    TRAVERSAL_POLICY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_32_FIELD_NUMBER: _ClassVar[int]
    traversal_policy: TraversalPolicyData
    data: _containers.RepeatedScalarFieldContainer[float]
    data_32: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, traversal_policy: _Optional[_Union[TraversalPolicyData, _Mapping]] = ..., data: _Optional[_Iterable[float]] = ..., data_32: _Optional[_Iterable[float]] = ...) -> None: ...

class CollectionLibraryEntry(_message.Message):
    __slots__ = ("key", "collection")
    KEY_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    key: str
    collection: CollectionData
    def __init__(self, key: _Optional[str] = ..., collection: _Optional[_Union[CollectionData, _Mapping]] = ...) -> None: ...

class CollectionLibraryData(_message.Message):
    __slots__ = ("collections",)
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[CollectionLibraryEntry]
    def __init__(self, collections: _Optional[_Iterable[_Union[CollectionLibraryEntry, _Mapping]]] = ...) -> None: ...
