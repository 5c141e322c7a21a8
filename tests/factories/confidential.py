"""The attributes that PS3.15 table E.1-1 lists (2026c), and a value for each that can be found again.

The table is about data elements; groups of them (curves, overlays, private ones) are written by the tests themselves.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

KEYWORDS = """
AccessionNumber AcquisitionComments AcquisitionContextDescription AcquisitionContextSequence AcquisitionDate
AcquisitionDateTime AcquisitionDeviceProcessingDescription AcquisitionFieldOfViewLabel
AcquisitionProtocolDescription AcquisitionTime AcquisitionUID ActualHumanPerformersSequence
AdditionalPatientHistory AddressTrial AdmissionID AdmittingDate AdmittingDiagnosesCodeSequence
AdmittingDiagnosesDescription AdmittingTime AffectedSOPInstanceUID Allergies AnnotationGroupDescription
AnnotationGroupLabel AnnotationGroupUID ApprovalStatusDateTime Arbitrary AssertionDateTime
AssertionExpirationDateTime AttributeModificationDateTime AuthorObserverSequence BarcodeValue BeamDescription
BeamHoldTransitionDateTime BolusDescription BranchOfService CalibrationDate CalibrationDateTime CalibrationTime
CameraOwnerName CassetteID CertificateOfSigner CertifiedTimestamp ChannelDerivationDescription ChannelLabel
ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolEthicsCommitteeApprovalNumber
ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialProtocolID ClinicalTrialProtocolName
ClinicalTrialSeriesDescription ClinicalTrialSeriesID ClinicalTrialSiteID ClinicalTrialSiteName
ClinicalTrialSponsorName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointDescription
ClinicalTrialTimePointID CommentsOnRadiationDose CommentsOnThePerformedProcedureStep CompensatorDescription
ConcatenationUID ConceptualVolumeCombinationDescription ConceptualVolumeDescription ConceptualVolumeUID
ConfidentialityConstraintOnPatientDataDescription ConstituentConceptualVolumeUID
ConsultingPhysicianIdentificationSequence ConsultingPhysicianName ContainerComponentID ContainerDescription
ContainerIdentifier ContentCreatorIdentificationCodeSequence ContentCreatorName ContentDate ContentSequence
ContentTime ContextGroupLocalVersion ContextGroupVersion ContrastBolusAgent ContrastBolusStartTime
ContrastBolusStopTime ContributionDateTime ContributionDescription CountryOfResidence CreationDate CreationTime
CurrentObserverTrial CurrentPatientLocation CurveDate CurveTime CustodialOrganizationSequence
DataSetTrailingPadding Date DateOfDocumentOrVerbalTransactionTrial DateOfInstallation DateOfLastCalibration
DateOfLastDetectorCalibration DateOfManufacture DateOfSecondaryCapture DateTime DateTimeOfLastCalibration
DecayCorrectionDateTime DecompositionDescription DerivationDescription DestinationAE DetectorID
DeviceAlternateIdentifier DeviceDescription DeviceLabel DeviceSerialNumber DeviceSettingDescription DeviceUID
DigitalSignatureDateTime DigitalSignatureUID DigitalSignaturesSequence DimensionOrganizationUID DischargeDate
DischargeDiagnosisDescription DischargeTime DisplacementReferenceLabel DistributionAddress DistributionName
DoseReferenceDescription DoseReferenceUID DosimetricObjectiveUID EffectiveDateTime EncapsulatedDocument
EndAcquisitionDateTime EntityDescription EntityLabel EntityLongLabel EntityName
EquipmentFrameOfReferenceDescription EthicsCommitteeApprovalEffectivenessEndDate
EthicsCommitteeApprovalEffectivenessStartDate EthnicGroup EthnicGroupCodeSequence ExclusionStartDateTime
ExpectedCompletionDateTime FailedSOPInstanceUIDList FiducialUID FillerOrderNumberImagingServiceRequest
FilterLookupTableDescription FindingsGroupRecordingDateTrial FindingsGroupRecordingTimeTrial FirstTreatmentDate
FixationDeviceDescription FlowIdentifier FlowIdentifierSequence FractionGroupDescription FractionationNotes
FrameAcquisitionDateTime FrameComments FrameOfReferenceUID FrameOriginTimestamp FrameReferenceDateTime
FunctionalSyncPulse GPSAltitude GPSAltitudeRef GPSAreaInformation GPSDOP GPSDateStamp GPSDestBearing
GPSDestBearingRef GPSDestDistance GPSDestDistanceRef GPSDestLatitude GPSDestLatitudeRef GPSDestLongitude
GPSDestLongitudeRef GPSDifferential GPSImgDirection GPSImgDirectionRef GPSLatitude GPSLatitudeRef GPSLongitude
GPSLongitudeRef GPSMapDatum GPSMeasureMode GPSProcessingMethod GPSSatellites GPSSpeed GPSSpeedRef GPSStatus
GPSTimeStamp GPSTrack GPSTrackRef GPSVersionID GantryID GeneratorID GraphicAnnotationSequence
HL7DocumentEffectiveTime HangingProtocolCreationDateTime HardcopyCreationDeviceID HumanPerformerName
HumanPerformerOrganization IconImageSequence IdentifyingComments ImageComments ImagePresentationComments
ImagingServiceRequestComments ImpedanceMeasurementDateTime Impressions InformationIssueDateTime
InstanceCoercionDateTime InstanceCreationDate InstanceCreationTime InstanceCreatorUID InstanceOriginStatus
InstitutionAddress InstitutionCodeSequence InstitutionName InstitutionalDepartmentName
InstitutionalDepartmentTypeCodeSequence InstructionPerformedDateTime InsurancePlanIdentification
IntendedFractionStartTime IntendedPhaseEndDate IntendedPhaseStartDate
IntendedRecipientsOfResultsIdentificationSequence InterlockDateTime InterlockDescription
InterlockOriginDescription InterpretationApprovalDate InterpretationApprovalTime InterpretationApproverSequence
InterpretationAuthor InterpretationDiagnosisDescription InterpretationID InterpretationIDIssuer
InterpretationRecordedDate InterpretationRecordedTime InterpretationRecorder InterpretationText
InterpretationTranscriber InterpretationTranscriptionDate InterpretationTranscriptionTime
InterventionDrugStartTime InterventionDrugStopTime IrradiationEventUID IssueDateOfImagingServiceRequest
IssueTimeOfImagingServiceRequest IssuerOfAdmissionID IssuerOfAdmissionIDSequence IssuerOfClinicalTrialProtocolID
IssuerOfClinicalTrialSeriesID IssuerOfClinicalTrialSiteID IssuerOfClinicalTrialSubjectID
IssuerOfClinicalTrialSubjectReadingID IssuerOfClinicalTrialTimePointID IssuerOfPatientID
IssuerOfServiceEpisodeID IssuerOfServiceEpisodeIDSequence IssuerOfTheContainerIdentifierSequence
IssuerOfTheSpecimenIdentifierSequence LabelText LargePaletteColorLookupTableUID LastMenstrualDate LensMake
LensModel LensSerialNumber LensSpecification LongDeviceDescription MAC MakerNote ManufacturerDeviceClassUID
ManufacturerDeviceIdentifier MediaStorageSOPInstanceUID MedicalAlerts MedicalRecordLocator MilitaryRank
ModifiedAttributesSequence ModifiedImageDate ModifiedImageDescription ModifiedImageTime ModifyingDeviceID
ModifyingSystem MostRecentTreatmentDate MultienergyAcquisitionDescription MultiplexGroupLabel MultiplexGroupUID
NameOfPhysiciansReadingStudy NamesOfIntendedRecipientsOfResults NetworkID NonconformingDataElementValue
NonconformingModifiedAttributesSequence ObservationDateTime ObservationDateTrial ObservationStartDateTime
ObservationSubjectUIDTrial ObservationTimeTrial ObservationUID Occupation OperatorIdentificationSequence
OperatorsName OrderCallbackPhoneNumber OrderCallbackTelecomInformation OrderEnteredBy OrderEntererLocation
OriginalAttributesSequence Originator OtherClinicalTrialProtocolIDsSequence OtherPatientIDs
OtherPatientIDsSequence OtherPatientNames OverlayDate OverlayTime OverrideDateTime PaletteColorLookupTableUID
ParticipantSequence ParticipationDateTime PatientAddress PatientAge PatientBirthDate PatientBirthName
PatientBirthTime PatientComments PatientID PatientInstitutionResidence PatientInsurancePlanCodeSequence
PatientMotherBirthName PatientName PatientPrimaryLanguageCodeSequence PatientPrimaryLanguageModifierCodeSequence
PatientReligiousPreference PatientSetupPhotoDescription PatientSetupUID PatientSex PatientSexNeutered
PatientSize PatientState PatientTelecomInformation PatientTelephoneNumbers PatientTransportArrangements
PatientTreatmentPreparationMethodDescription PatientTreatmentPreparationProcedureParameterDescription
PatientWeight PerformedLocation PerformedProcedureStepDescription PerformedProcedureStepEndDate
PerformedProcedureStepEndDateTime PerformedProcedureStepEndTime PerformedProcedureStepID
PerformedProcedureStepStartDate PerformedProcedureStepStartDateTime PerformedProcedureStepStartTime
PerformedStationAETitle PerformedStationGeographicLocationCodeSequence PerformedStationName
PerformedStationNameCodeSequence PerformingPhysicianIdentificationSequence PerformingPhysicianName PersonAddress
PersonIdentificationCodeSequence PersonName PersonTelecomInformation PersonTelephoneNumbers
PhysicianApprovingInterpretation PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence
PhysiciansReadingStudyIdentificationSequence PlacerOrderNumberImagingServiceRequest PlateID
PositionAcquisitionTemplateDescription PositionAcquisitionTemplateName PreMedication PregnancyStatus
PrescriptionDescription PrescriptionNotes PrescriptionNotesSequence PresentationCreationDate
PresentationCreationTime PresentationDisplayCollectionUID PresentationSequenceCollectionUID
PriorTreatmentDoseDescription ProcedureStepCancellationDateTime ProductExpirationDateTime ProtocolName
PyramidDescription PyramidLabel PyramidUID ROICreatorSequence ROIDateTime ROIDescription
ROIGenerationDescription ROIInterpreter ROIInterpreterSequence ROIName ROIObservationDateTime
ROIObservationDescription ROIObservationLabel RTAccessoryDeviceSlotID RTAccessoryHolderSlotID
RTPhysicianIntentNarrative RTPlanDate RTPlanDescription RTPlanLabel RTPlanName RTPlanTime RTPrescriptionLabel
RTToleranceSetLabel RTTreatmentApproachLabel RTTreatmentPhaseUID RadiationDoseIdentificationLabel
RadiationDoseInVivoMeasurementLabel RadiationGenerationModeDescription RadiationGenerationModeLabel
RadiopharmaceuticalStartDateTime RadiopharmaceuticalStartTime RadiopharmaceuticalStopDateTime
RadiopharmaceuticalStopTime ReasonForOmissionDescription ReasonForRequestedProcedureCodeSequence ReasonForStudy
ReasonForSuperseding ReasonForTheAttributeModification ReasonForTheImagingServiceRequest
ReasonForTheRequestedProcedure ReasonForVisit ReasonForVisitCodeSequence ReceivingAE
RecordedRTControlPointDateTime ReferencedConceptualVolumeUID ReferencedDateTime
ReferencedDigitalSignatureSequence ReferencedDoseReferenceUID ReferencedDosimetricObjectiveUID
ReferencedFiducialsUID ReferencedFrameOfReferenceUID
ReferencedGeneralPurposeScheduledProcedureStepTransactionUID ReferencedImageSequence
ReferencedObservationUIDTrial ReferencedPatientAliasSequence ReferencedPatientPhotoSequence
ReferencedPatientSequence ReferencedPerformedProcedureStepSequence ReferencedSOPInstanceMACSequence
ReferencedSOPInstanceUID ReferencedSOPInstanceUIDInFile ReferencedStudySequence
ReferencedTreatmentPositionGroupUID ReferringPhysicianAddress ReferringPhysicianIdentificationSequence
ReferringPhysicianName ReferringPhysicianTelephoneNumbers RegionOfResidence RelatedFrameOfReferenceUID
RequestAttributesSequence RequestedContrastAgent RequestedProcedureComments RequestedProcedureDescription
RequestedProcedureID RequestedProcedureLocation RequestedSOPInstanceUID RequestedSeriesDescription RequestingAE
RequestingPhysician RequestingService RespiratoryMotionCompensationTechniqueDescription ResponsibleOrganization
ResponsiblePerson ResultsComments ResultsDistributionListSequence ResultsID ResultsIDIssuer RetrieveAETitle
ReviewDate ReviewTime ReviewerName SOPAuthorizationDateTime SOPInstanceUID SafePositionExitDate
SafePositionExitTime SafePositionReturnDate SafePositionReturnTime ScheduledAdmissionDate ScheduledAdmissionTime
ScheduledDischargeDate ScheduledDischargeTime ScheduledHumanPerformersSequence
ScheduledPatientInstitutionResidence ScheduledPerformingPhysicianIdentificationSequence
ScheduledPerformingPhysicianName ScheduledProcedureStepDescription ScheduledProcedureStepEndDate
ScheduledProcedureStepEndTime ScheduledProcedureStepExpirationDateTime ScheduledProcedureStepID
ScheduledProcedureStepLocation ScheduledProcedureStepModificationDateTime ScheduledProcedureStepStartDate
ScheduledProcedureStepStartDateTime ScheduledProcedureStepStartTime ScheduledStationAETitle
ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence
ScheduledStudyLocation ScheduledStudyLocationAETitle ScheduledStudyStartDate ScheduledStudyStartTime
ScheduledStudyStopDate ScheduledStudyStopTime SecondaryCaptureDeviceID SelectorAEValue SelectorASValue
SelectorDAValue SelectorDTValue SelectorLOValue SelectorLTValue SelectorOBValue SelectorPNValue SelectorSHValue
SelectorSTValue SelectorTMValue SelectorUNValue SelectorURValue SelectorUTValue SeriesDate SeriesDescription
SeriesInstanceUID SeriesTime ServiceEpisodeDescription ServiceEpisodeID SetupTechniqueDescription
ShieldingDeviceDescription SlideIdentifier SmokingStatus SourceConceptualVolumeUID SourceEndDateTime
SourceFrameOfReferenceUID SourceIdentifier SourceImageSequence SourceManufacturer SourceOfPreviousValues
SourceSerialNumber SourceStartDateTime SourceStrengthReferenceDate SourceStrengthReferenceTime SpecialNeeds
SpecimenAccessionNumber SpecimenDetailedDescription SpecimenIdentifier SpecimenPreparationSequence
SpecimenShortDescription SpecimenUID StartAcquisitionDateTime StationAETitle StationName StorageMediaFileSetUID
StructureSetDate StructureSetDescription StructureSetLabel StructureSetName StructureSetTime StudyArrivalDate
StudyArrivalTime StudyComments StudyCompletionDate StudyCompletionTime StudyDate StudyDescription StudyID
StudyIDIssuer StudyInstanceUID StudyReadDate StudyReadTime StudyTime StudyVerifiedDate StudyVerifiedTime
SubstanceAdministrationDateTime SynchronizationFrameOfReferenceUID TableTopPositionAlignmentUID TargetUID
TelephoneNumberTrial TemplateExtensionCreatorUID TemplateExtensionOrganizationUID TemplateLocalVersion
TemplateVersion TextComments TextString Time TimeOfDocumentCreationOrVerbalTransactionTrial
TimeOfLastCalibration TimeOfLastDetectorCalibration TimeOfSecondaryCapture TimezoneOffsetFromUTC TopicAuthor
TopicKeywords TopicSubject TopicTitle TrackingUID TransactionUID TransducerIdentificationSequence
TreatmentControlPointDate TreatmentControlPointTime TreatmentDate TreatmentMachineName
TreatmentPositionGroupLabel TreatmentPositionGroupUID TreatmentSessionUID TreatmentSite TreatmentSites
TreatmentTechniqueNotes TreatmentTime TreatmentToleranceViolationDateTime TreatmentToleranceViolationDescription
UDISequence UID UnformattedTextValue UniqueDeviceIdentifier UserContentLabel UserContentLongLabel
VerbalSourceIdentifierCodeSequenceTrial VerbalSourceTrial VerificationDateTime
VerifyingObserverIdentificationCodeSequence VerifyingObserverName VerifyingObserverSequence
VerifyingOrganization VisitComments WaveformAnnotationSequence WaveformFilterDescription XRayDetectorID
XRayDetectorLabel XRaySourceID
""".split()  # noqa: SIM905 - a list of 600 words, a line each or quoted, is nothing to read

NEWER_TAGS = (
    0x00081301,
    0x00081302,
    0x00081303,
    0x00081304,
    0x00100011,
    0x00100012,
    0x00100013,
    0x00100014,
    0x00100015,
    0x00100016,
    0x00100041,
    0x00100042,
    0x00100043,
    0x00100044,
    0x00100045,
    0x00100046,
    0x00100047,
    0x00102162,
    0x0040A034,
    0x0040A035,
    0x0040B034,
    0x0040B036,
    0x0040B03B,
    0x0040B03F,
    0x0040E012,
)
"""Those that the dictionary of an earlier edition does not name."""

# Valid for its VR, and found in nothing that is about no patient. A number stands in UL, US and the like as itself.
CANARIES: dict[str, Any] = {
    **dict.fromkeys(("LO", "SH", "ST", "LT", "UT", "UC", "AE", "CS"), "CANARY"),
    "PN": "Canary^Zo\u00eb=\u30ab\u30ca\u30ea\u30a2^\u30be\u30a8",
    "UI": "2.999.8675309.1",
    "DA": "19130717",
    "TM": "191307.17",
    "DT": "19130717191307.17",
    "AS": "098Y",
    "DS": "8675309.5",
    "IS": "8675309",
    "UR": "https://canary.example/",
    "US": 8675,
    "OB": b"CANARY",
    "UN": b"CANARY",
}
TRACES = (
    "canary",
    "zo\u00eb",
    "\u30ab\u30ca\u30ea\u30a2",
    "2.999.8675309",
    "8675309",
    "19130717",
    "1913-07-17",
    "098y",
)
TRACES_ON_PAPER = (*TRACES, "98 years")


def fill_with_canaries(made: Dataset) -> None:
    """Give every attribute of the table a canary, in sequences too, beside private elements and groups of old."""
    made.SpecificCharacterSet = "ISO_IR 192"
    for tag in [*(tag_for_keyword(keyword) or 0 for keyword in KEYWORDS), *NEWER_TAGS]:
        if tag >> 16 in (0, 2):  # of messages and of the file meta information
            continue
        vr = dictionary_VR(tag) if tag not in NEWER_TAGS else "LO"
        made.add_new(tag, vr, [_item()] if vr == "SQ" else CANARIES[vr])
    made.private_block(0x0099, "CANARY", create=True).add_new(1, "LO", "CANARY")
    made.add_new(0x50000010, "US", 1)
    made.add_new(0x50002500, "LO", "CANARY")
    made.add_new(0x60004000, "LT", "CANARY")


def _item() -> Dataset:
    """Return an item whose sequence has an item whose sequence has one."""
    item = inner = Dataset()
    for _ in range(3):
        inner.PatientName, inner.PatientID, inner.StudyDate = CANARIES["PN"], "CANARY", CANARIES["DA"]
        inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "CANARY", "CANARY", "CANARY"
        inner.TextValue, inner.UniversalEntityID, inner.UID = "CANARY", "CANARY", CANARIES["UI"]
        nested = Dataset()
        inner.ContentSequence = [nested]
        inner = nested
    return item


def traces_in(folder: Path, traces: Collection[str] = TRACES) -> list[str]:
    """Return which file below `folder`, by its bytes, its name or what is compressed in it, holds which canary."""
    spelled = {
        (trace, form)
        for trace in traces
        for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be")
        for form in _spellings(trace, encoding)
        # Three bytes are found by chance in what is compressed, about once in forty reports.
        if len(form) > 3
    }
    return [
        f"{path.relative_to(folder)}: {trace}"
        for path in sorted(folder.rglob("*"))
        for content in _contents(path)
        for trace, form in spelled
        if form in content
    ]


def _spellings(trace: str, encoding: str) -> Iterator[bytes]:
    yield trace.encode(encoding, "ignore") or b"\0no such text\0"
    # As JSON and CSV write what is not ASCII.
    yield trace.encode("ascii", "backslashreplace")


def _contents(path: Path) -> Iterator[bytes]:
    yield path.name.lower().encode("utf-8", "surrogateescape")
    if path.is_file():
        content = path.read_bytes()
        yield content.lower()
        if content.startswith(b"%PDF"):
            streams = list(_inflated(content))
            yield from (stream.lower() for stream in streams)
            yield pdf_text(streams).lower().encode()


def _inflated(pdf: bytes) -> Iterator[bytes]:
    for packed in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        with suppress(zlib.error):
            yield zlib.decompressobj().decompress(packed)


def pdf_text(streams: Collection[bytes]) -> str:
    """Return what a page's strings say, each as every font of the document would read it."""
    shown = [run for stream in streams if b" Tf" in stream for run in re.findall(rb"\[([^]]*)\]\s*TJ", stream)]
    glyphs = ["".join(re.findall("<([0-9a-fA-F]+)>", run.decode("latin-1"))) for run in shown]
    read = []
    for names in filter(None, map(_names_of_glyphs, streams)):
        read += ["".join(names.get(run[at : at + 4].lower(), "") for at in range(0, len(run), 4)) for run in glyphs]
    return "\n".join(read)


def _names_of_glyphs(stream: bytes) -> dict[str, str]:
    if b"beginbfchar" not in stream:
        return {}
    pairs = re.findall(rb"<([0-9a-fA-F]{4})>\s*<([0-9a-fA-F]+)>", stream)
    return {
        glyph.decode().lower(): bytes.fromhex(text.decode()).decode("utf-16-be", "replace") for glyph, text in pairs
    }
